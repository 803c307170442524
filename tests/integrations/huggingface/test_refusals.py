"""What cannot be right is an error that says what to do."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

import cotbal
from cotbal.balancing import DWA
from cotbal.doctor import compare, random_batch
from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from cotbal.integrations.huggingface.refusals import check_trainer
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    Stream,
    arguments,
    collator,
    pad,
    parameters,
    records,
    tiny_model,
)


def trainer(folder: Path, model: Any = None, **options: Any) -> CoTBalTrainer:
    chosen = {"weights": WEIGHTS, "data_collator": collator(), "train_dataset": records(8)} | options
    chosen.setdefault("args", arguments(folder))
    return CoTBalTrainer(model or tiny_model(), **chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_unused_columns": True}, r"pass TrainingArguments\(remove_unused_columns=False\)"),
        ({"label_smoothing_factor": 0.1}, "Pass label_smoothing=... to the trainer instead"),
    ],
)
def test_settings(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, args=arguments(tmp_path, **options))


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_an_optimizer_that_steps_in_each_backward_pass(tmp_path: Path, optimizer: str) -> None:
    """LOMO over three micro-batches of 4 was 28 % off the step of Eq. 2; over one of 12 it is that step."""
    trainer(tmp_path, args=arguments(tmp_path, optim=optimizer))
    message = rf"gradient_accumulation_steps: expected 1 with optim='{optimizer}', .* got 3: .*another optim"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, args=arguments(tmp_path, accumulation=3, optim=optimizer))


def test_settings_that_change_after_the_construction(tmp_path: Path) -> None:
    """As a search for hyperparameters does: the Trainer would smooth nothing, and say nothing."""
    run = trainer(tmp_path)
    run.args.label_smoothing_factor = 0.1
    with pytest.raises(ValueError, match=r"label_smoothing_factor: expected 0, got 0\.1"):
        run.train()


def test_ligers_loss_is_refused_and_its_other_kernels_are_not(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.args.use_liger_kernel = True
    for others in (None, {"rope": True}):
        run.args.liger_kernel_config = others
        with pytest.raises(
            ValueError, match=r"use_liger_kernel: .*=\{'fused_linear_cross_entropy': False\}\)"
        ):
            check_trainer(run)
    run.args.liger_kernel_config = {"fused_linear_cross_entropy": False}
    check_trainer(run)


def test_the_default_arguments_are_refused_with_the_remedy(tmp_path: Path) -> None:
    class OwnConfig(TrainingArguments):
        pass

    for cls in (TrainingArguments, OwnConfig):
        remedy = rf"remove_unused_columns: expected False, got True.* {cls.__name__}\(remove_unused_columns="
        with pytest.raises(ValueError, match=remedy):
            trainer(tmp_path, args=cls(str(tmp_path), use_cpu=True, report_to=[]))


def test_several_gpus_in_one_process(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    assert args.n_gpu <= 1
    args._n_gpu = 2
    with pytest.raises(
        ValueError, match=r"n_gpu: expected one GPU per process, got 2.* Launch with `torchrun`"
    ):
        trainer(tmp_path, args=args)


def test_a_loss_function_of_the_trainer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compute_loss_func: expected None, got a function.* Leave it out"):
        trainer(tmp_path, compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.loss)


def test_a_reentrant_checkpoint_around_the_whole_model(tmp_path: Path) -> None:
    """Its second forward pass is in the backward pass, where the model's loss is its own."""
    run = trainer(tmp_path)
    own, embed = run.model.forward, run.model.model.embed_tokens

    def forward(input_ids: Tensor, **inputs: Any) -> CausalLMOutput:
        def whole(embedded: Tensor) -> Tensor:
            return own(inputs_embeds=embedded, **inputs).loss

        return CausalLMOutput(loss=checkpoint(whole, embed(input_ids), use_reentrant=True))

    run.model.forward = forward
    with pytest.raises(ValueError, match=r"expected a loss with a gradient, .* checkpoint the layers"):
        run.train()


# PEFT reads what transformers 5 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_prompts_that_lengthen_the_labels(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match=r"expected no PROMPT_TUNING.* use LoRA or prefix tuning"):
        trainer(tmp_path, peft.get_peft_model(tiny_model(), config))
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    trainer(tmp_path, peft.get_peft_model(tiny_model(), config))


def adapted(kind: str) -> Any:
    peft = pytest.importorskip("peft")
    if kind == "SHADOW" and not hasattr(peft, "ShadowConfig"):
        pytest.skip("this PEFT has no shadow network")
    config = {
        "ADALORA": lambda: peft.AdaLoraConfig(total_step=9, init_r=4, target_r=4, target_modules=["q_proj"]),
        "SHADOW": lambda: peft.ShadowConfig(),
        "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1),
    }[kind]()
    config.task_type = "CAUSAL_LM"
    return peft.get_peft_model(tiny_model(), config)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["ADALORA", "SHADOW", "ADAPTION_PROMPT"])
def test_an_adapter_that_changes_the_loss_around_the_model(tmp_path: Path, kind: str) -> None:
    """Once per micro-batch, after ours was returned: it would depend on the accumulation."""
    model = adapted(kind)
    message = f"model: expected an adapter that leaves .* got {kind}, which .*; use LoRA"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, model)
    with pytest.raises(ValueError, match=message):
        cotbal.patch(model, weights=WEIGHTS, tasks=TASKS, denominator="micro")
    with pytest.raises(ValueError, match=message):
        compare(model, random_batch(model))


def test_no_other_adapter_of_peft_changes_the_loss() -> None:
    """CPT's is a prompt that lengthens the labels."""
    peft = pytest.importorskip("peft")
    tuners = Path(peft.__file__).parent / "tuners"
    changing = re.compile(r"^ +outputs?\.loss \+?= |base_model_output\.loss = ", re.MULTILINE)
    found = {file.parent.name for file in tuners.rglob("*.py") if changing.search(file.read_text())}
    assert "adalora" in found
    assert found <= {"adalora", "shadow", "cpt"}


def test_sequence_parallelism_of_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", minversion="1.12")

    class Parallel(CoTBalTrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            # Given to the accelerator it would ask for its two ranks first.
            self.accelerator.state.parallelism_config = accelerate.ParallelismConfig(cp_size=2)

    options = {"weights": WEIGHTS, "data_collator": collator(), "train_dataset": records(8)}
    try:
        with pytest.raises(ValueError, match="hand each rank its shard with `shift_labels`"):
            Parallel(tiny_model(), arguments(tmp_path), **options)
    finally:
        accelerate.state.AcceleratorState._reset_state()


def test_a_task_without_a_weight(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks: no weight for task 'long'.* Add it to the weights"):
        trainer(tmp_path, weights={"short": 1.0})


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="weights: expected TaskWeights, a mapping, a list, a path or a Weig"):
        trainer(tmp_path, weights=2.0)
    with pytest.raises(ValueError, match="tasks: expected the names of the list's 3 weights in its order"):
        trainer(tmp_path, weights=[1.0, 2.0, 3.0])


def test_a_list_of_weights_is_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    assert trainer(tmp_path, weights=[1.0, 2.0]).weighting.fixed == {"short": 1.0, "long": 2.0}
    other = trainer(tmp_path, weights=[1.0, 2.0], tasks=TASKS[::-1], data_collator=pad)
    assert other.weighting.fixed == {"long": 1.0, "short": 2.0}


def test_another_rule_in_the_place_of_the_trainers_is_not_ignored(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    with pytest.raises(AttributeError, match=r"weighting: .* stay StaticWeights .* reads self\.step"):
        run.weighting = DWA(window=2)
    assert run.weighting is run.balance.weighting


def test_a_collator_whose_ids_nothing_names_is_refused(tmp_path: Path) -> None:
    """The order of the weights would be a guess: with the other order each task had another's weight."""
    with pytest.raises(
        ValueError,
        match=r"data_collator: expected a TaskCollator, got function; pass TaskColl.* tasks=\[\.\.\.\]",
    ):
        trainer(tmp_path, data_collator=pad).train()


def test_a_rule_without_the_names_of_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks: .* got none; pass tasks=\[\.\.\.\]"):
        trainer(tmp_path, weights=DWA(window=2), data_collator=pad)
    assert trainer(tmp_path, weights=DWA(window=2)).tasks == TASKS


def test_a_training_batch_without_ids(tmp_path: Path) -> None:
    without = trainer(
        tmp_path,
        data_collator=pad,
        tasks=TASKS,
        train_dataset=[record | {"task": 0} for record in records(8)],
    )
    with pytest.raises(
        ValueError, match=r"cotbal_task_ids: expected .* data_collator=TaskCollator\(collator.* field=\.\.\."
    ):
        without.train()


def test_a_task_of_a_stream_that_is_not_known(tmp_path: Path) -> None:
    run = trainer(tmp_path, train_dataset=Stream([record | {"task": "mmlu"} for record in records(4)]))
    with pytest.raises(ValueError, match=r"^task: expected a known task, got .*; known tasks: short, long$"):
        run.train()


def test_a_collator_that_numbers_the_tasks_otherwise(tmp_path: Path) -> None:
    other = trainer(tmp_path, data_collator=TaskCollator(pad, TASKS[::-1]), tasks=TASKS)
    with pytest.raises(
        ValueError, match="tasks: expected the collator's long, short in that order, got short"
    ):
        other.train()


def test_a_second_trainer_on_the_same_model(tmp_path: Path) -> None:
    model = tiny_model()
    first = trainer(tmp_path, model, args=arguments(tmp_path, steps=1, bf16=True))
    with pytest.raises(ValueError, match="already has a loss of cotbal; call restore"):
        trainer(tmp_path, model)
    first.train()
    with pytest.raises(ValueError, match=r"call restore.*of a CoTBalTrainer trainer\.stop_balancing\(\), of"):
        trainer(tmp_path, model)
    first.installed.restore()
    trainer(tmp_path, model)


@pytest.mark.parametrize(("patched", "bf16"), [(False, False), (True, False), (False, True)])
def test_a_second_trainer_once_the_first_is_gone(tmp_path: Path, patched: bool, bf16: bool) -> None:
    """As in stages of a training, each in a function, or a cell that is run again."""
    options: dict[str, Any] = {"train_dataset": records(8), "data_collator": collator()}

    def stage(model: Any, weights: Any) -> Tensor:
        args = arguments(tmp_path, steps=1, bf16=bf16)
        if patched:
            stage_trainer: Any = Trainer(model, args, **options)
            cotbal.patch(stage_trainer, weights=weights)
        else:
            stage_trainer = CoTBalTrainer(model, args, weights=weights, **options)
        stage_trainer.train()
        return parameters(model)

    model, other = tiny_model(), tiny_model()
    stage(model, WEIGHTS)
    other.load_state_dict(model.state_dict())
    swapped = dict(zip(WEIGHTS, reversed(WEIGHTS.values()), strict=True))
    assert torch.equal(stage(model, swapped), stage(other, swapped))


@pytest.mark.parametrize("missing", ["transformers", "accelerate"])
def test_importing_it_without_its_extra_says_which(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import cotbal.integrations.huggingface"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    expected = f'cotbal.integrations.huggingface needs {missing}: pip install "path/to/cotbal[hf]"'
    assert f"ModuleNotFoundError: {expected}" in result.stderr


def test_what_was_refused_would_have_changed_the_numbers(tmp_path: Path) -> None:
    """Ids out of range as well: they come from a collator of one's own."""

    def wrong(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return pad(features) | {"cotbal_task_ids": torch.full((len(features),), 2)}

    with pytest.raises(ValueError, match=r"task_ids: expected values in 0\.\.1 at valid tokens"):
        trainer(tmp_path, data_collator=wrong, tasks=TASKS).train()
