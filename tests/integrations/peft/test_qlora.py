"""QLoRA: adapters on models that bitsandbytes has quantised, on a CPU."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedModel, Trainer, TrainerCallback

import cotbal
from cotbal.integrations.huggingface.levels import install_loss
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import build
from tests.integrations.huggingface.level_runs import TASK_IDS
from tests.integrations.huggingface.training import (
    WEIGHTS,
    InOrder,
    OrderedTrainer,
    Record,
    arguments,
    collator,
    pad,
    records,
    tiny_model,
)
from tests.integrations.peft.quantised import (
    BOUNDS,
    KINDS,
    LOSS_BOUND,
    adapted,
    eq2,
    error,
    gradient,
    quantised,
    trained,
)

pytest.importorskip("bitsandbytes")
pytestmark = [
    # PEFT 0.21 reads and calls what transformers 5.23 renamed.
    pytest.mark.filterwarnings(
        "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
]

CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "LlavaForConditionalGeneration")
TWO = (0.25, 4.0)


@cache
def original(name: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    return build(name)


def check(model: nn.Module, batch: dict[str, Tensor], kind: str, level: str, taken: str = "") -> None:
    """Loss and gradients at `level` are those of Eq. 2; "auto" is to be the level `taken`."""
    reference = eq2(model, [batch], [TWO])
    reference.backward()
    theirs = gradient(model)
    model.zero_grad()
    step_loss = StepLoss(2)
    installed = install_loss(model, step_loss, level)
    assert installed.level == (taken or level)
    mass = (torch.tensor(TWO)[:, None] * (batch["labels"][:, 1:] != -100)).sum()
    step_loss.begin_step(torch.tensor(TWO), mass)
    with step_loss.micro_batch(TASK_IDS):
        loss = model(**batch).loss
    loss.backward()
    installed.restore()
    assert abs(loss.item() / reference.item() - 1) <= LOSS_BOUND
    assert error(gradient(model), theirs) <= BOUNDS[kind]


@pytest.mark.parametrize("level", ["linear", "logits"])
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_eq_2(kind: str, name: str, level: str) -> None:
    model, batch = original(name)
    made = adapted(quantised(model, kind))
    assert trained(made)
    check(made, batch, kind, level)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_is_trained_whole(kind: str) -> None:
    model, batch = original("LlamaForCausalLM")
    made = adapted(quantised(model, kind), modules_to_save=["lm_head"])
    check(made, batch, kind, "auto", "linear")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_the_head(kind: str) -> None:
    model, batch = original("LlamaForCausalLM")
    made = adapted(quantised(model, kind), target_modules=["q_proj", "lm_head"])
    check(made, batch, kind, "auto", "logits")


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_casts_its_output_has_the_logits_level(kind: str) -> None:
    """As PEFT's first examples have it."""

    class CastOutputToFloat(nn.Sequential):
        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden).float()

    model, batch = original("LlamaForCausalLM")
    made = quantised(model, kind)
    made.lm_head = CastOutputToFloat(made.lm_head)
    check(adapted(made), batch, kind, "auto", "logits")


# A list of one's own takes the place of transformers', which has lm_head in it; LLaVA's --bits is one.
@pytest.mark.parametrize("skipped", [[], ["vision_tower"]], ids=["nothing", "the tower"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_head_has_the_logits_level(kind: str, skipped: list[str]) -> None:
    model, batch = original("LlavaForConditionalGeneration")
    made = adapted(quantised(model, kind, llm_int8_skip_modules=skipped))
    refused = r'lm_head is a bitsandbytes.*adding "lm_head" to llm_int8_skip_modules'
    with pytest.raises(ValueError, match=refused):
        install_loss(made, StepLoss(2), "linear")
    check(made, batch, kind, "auto", "logits")
    kept = adapted(quantised(model, kind, llm_int8_skip_modules=[*skipped, "lm_head"]))
    check(kept, batch, kind, "linear")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_a_quantised_head(kind: str) -> None:
    """PEFT cannot save a copy of such a head to train: what is advised must be possible."""
    model, batch = original("LlamaForCausalLM")
    options = {"target_modules": ["q_proj", "lm_head"]}
    made = adapted(quantised(model, kind, llm_int8_skip_modules=[]), **options)
    advice = 'put it into modules_to_save, after adding "lm_head" to llm_int8_skip_modules; or'
    with pytest.raises(ValueError, match=advice):
        install_loss(made, StepLoss(2), "linear")
    check(made, batch, kind, "auto", "logits")
    with pytest.raises(RuntimeError, match="floating point"):
        adapted(quantised(model, kind, llm_int8_skip_modules=[]), modules_to_save=["lm_head"])


@pytest.mark.parametrize("saved", [None, ["lm_head"]], ids=["frozen", "saved"])
@pytest.mark.parametrize("kind", KINDS)
def test_accelerates_hooks_in_every_layer(kind: str, saved: list[str] | None) -> None:
    """Its older versions put them into quantised models."""
    model, batch = original("LlamaForCausalLM")
    made = dispatch_model(quantised(model, kind), {"": "cpu"}, force_hooks=True)
    assert "forward" in vars(made.lm_head)
    check(adapted(made, modules_to_save=saved), batch, kind, "linear")


class Watch(TrainerCallback):
    """Before each optimizer step: the error of all gradients against Eq. 2 over the step's micro-batches."""

    def __init__(self, windows: list[list[Record]], size: int) -> None:
        self.windows, self.size = windows, size
        self.errors: list[float] = []
        self.losses: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, state: Any = None, model: Any = None, **__: Any) -> None:
        window = self.windows[len(self.errors) % len(self.windows)]
        micro = [window[i : i + self.size] for i in range(0, len(window), self.size)]
        ours, own = gradient(model), [parameter.grad for parameter in trained(model)]
        model.zero_grad()
        loss = eq2(model, [*map(pad, micro)], [[WEIGHTS[row["task"]] for row in rows] for rows in micro])
        # Not autograd.grad: reentrant checkpoints refuse it.
        loss.backward()
        self.errors.append(error(ours, gradient(model)))
        self.losses.append(loss.item())
        for parameter, before in zip(trained(model), own, strict=True):
            parameter.grad = before

    def check(self, trainer: Any, kind: str, steps: int) -> None:
        """Of a trainer `InOrder` that accumulated two micro-batches a step."""
        assert len(self.errors) == steps
        assert max(self.errors) <= BOUNDS[kind]
        losses = [float(a + b) for a, b in zip(trainer.losses[::2], trainer.losses[1::2], strict=True)]
        assert losses == pytest.approx(self.losses, rel=LOSS_BOUND)


class PlainTrainer(InOrder, Trainer):
    pass


def ours(model: Any, args: Any, data: list[Record]) -> Any:
    return OrderedTrainer(model, args, train_dataset=data, data_collator=collator(), weights=WEIGHTS)


def patched(model: Any, args: Any, data: list[Record]) -> Any:
    trainer = PlainTrainer(model, args, train_dataset=data, data_collator=collator())
    cotbal.patch(trainer, weights=WEIGHTS)
    return trainer


@pytest.mark.parametrize(
    ("make", "reentrant", "options"),
    [
        (ours, None, {}),
        (ours, False, {"optim": "adamw_bnb_8bit", "learning_rate": 1e-3}),
        (patched, True, {"optim": "paged_adamw_8bit", "learning_rate": 1e-3}),
    ],
    ids=["CoTBalTrainer", "checkpoints and an 8-bit optimizer", "patched, reentrant checkpoints, paged"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trainers_steps_are_eq_2(
    kind: str, make: Callable[..., Any], reentrant: bool | None, options: dict[str, Any], tmp_path: Path
) -> None:
    # A rank whose states an 8-bit optimizer really holds in 8 bits: they are 4096 numbers or more.
    model = adapted(quantised(tiny_model(), kind), reentrant=reentrant, r=128)
    data = records(24)
    assert model.is_gradient_checkpointing == (reentrant is not None)
    trainer = make(model, arguments(tmp_path, batch=4, accumulation=2, steps=4, **options), data)
    assert trainer.installed.level == "linear"
    watch = Watch([data[:8], data[8:16], data[16:]], size=4)
    trainer.add_callback(watch)
    before = [parameter.detach().clone() for parameter in trained(model)]
    trainer.train()
    watch.check(trainer, kind, steps=4)
    assert not any(torch.equal(a, b) for a, b in zip(before, trained(model), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_patched_model(kind: str) -> None:
    model, data = adapted(quantised(tiny_model(), kind)), records(9)
    batch = collator()(data)
    expected = eq2(model, [pad(data)], [[WEIGHTS[row["task"]] for row in data]])
    expected.backward()
    theirs = gradient(model)
    model.zero_grad()
    with cotbal.patch(model, weights=WEIGHTS, tasks=collator().tasks, denominator="micro"):
        loss = model(**batch).loss
        loss.backward()
    assert abs(loss.item() / expected.item() - 1) <= LOSS_BOUND
    assert error(gradient(model), theirs) <= BOUNDS[kind]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_trls_adapters_in_bfloat16(tmp_path: Path) -> None:
    """To which it casts those of a quantised model, whatever the rest is."""
    pytest.importorskip("trl")
    from tests.integrations.huggingface.test_trl import PlainSFT, sft

    model, data = quantised(tiny_model(), "nf4 in bfloat16"), records(24)
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    trainer = sft(tmp_path, PlainSFT, model=model, peft_config=config)
    assert {parameter.dtype for parameter in trained(trainer.model)} == {torch.bfloat16}
    watch = Watch([data[:8], data[8:16], data[16:]], size=4)
    with cotbal.patch(trainer, weights=WEIGHTS):
        assert trainer.installed.level == "linear"
        trainer.add_callback(watch)
        trainer.train()
    watch.check(trainer, "nf4 in bfloat16", steps=5)


def test_llavas_projector_and_tower_are_quantised_by_default() -> None:
    """What the cases above are about: only the head is left out."""
    model = quantised(original("LlavaForConditionalGeneration")[0], "nf4 in float32")
    assert isinstance(model, LlavaForConditionalGeneration)
    ends = ("linear_1", "lm_head")
    kinds = {name: type(part).__name__ for name, part in model.named_modules() if name.endswith(ends)}
    assert kinds == {"model.multi_modal_projector.linear_1": "Linear4bit", "lm_head": "Linear"}
