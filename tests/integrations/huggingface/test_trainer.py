"""One process: the Trainer's parameters are those of Eq. 2 over its windows, whatever the micro-batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import DataCollatorWithFlattening, LlamaForCausalLM, Trainer

from cotbal.integrations.huggingface import CoTBalMixin, CoTBalTrainer, TaskCollator
from tests.examples import check_examples
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    InOrder,
    OrderedTrainer,
    Record,
    Stream,
    arguments,
    collator,
    deviation,
    expected,
    ignored,
    parameters,
    records,
    tiny_model,
)

# d = |p - p_ref| / |p_ref - p_0| in float32; a forgotten factor gives 0.1 and more.
BOUND = 1e-5


def trained(
    folder: Path,
    data: list[Record],
    batch: int,
    accumulation: int,
    cls: type = OrderedTrainer,
    make_batch: Any = None,
    level: str = "auto",
    model: Any = None,
    **options: Any,
) -> tuple[Tensor, list[float], Any]:
    """The parameters, the loss of each step, and the trainer."""
    args = arguments(folder, batch, accumulation, **options)
    make_batch = make_batch or collator()
    model = model or tiny_model()
    trainer = cls(model, args, train_dataset=data, data_collator=make_batch, weights=WEIGHTS, level=level)
    trainer.train()
    micro = -(-len(data) // batch)
    window, losses = 0.0, []
    for index, loss in enumerate(trainer.losses):
        window += loss.item()
        in_epoch = index % micro + 1
        if in_epoch % accumulation == 0 or in_epoch == micro:
            losses.append(window)
            window = 0.0
    return parameters(trainer.model), losses, trainer


def windows(data: list[Record], size: int, steps: int) -> list[list[Record]]:
    epoch = [data[start : start + size] for start in range(0, len(data), size)]
    return [epoch[step % len(epoch)] for step in range(steps)]


def check(
    outcome: tuple[Tensor, list[float], Any],
    size: int,
    data: list[Record],
    clip: float = 0.0,
    n_layers: int = 2,
) -> None:
    actual, losses, _ = outcome
    model = tiny_model(n_layers)
    start = parameters(model)
    reference, reference_losses = expected(model, windows(data, size, 5), WEIGHTS, clip)
    assert deviation(actual, reference, start) <= BOUND
    # In float32; a loss is about 8.
    assert losses == pytest.approx(reference_losses, rel=2e-6, abs=1e-6)


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
@pytest.mark.parametrize("level", ["linear", "logits"])
def test_micro_batches_of_any_size_train_as_one(
    tmp_path: Path, batch: int, accumulation: int, level: str
) -> None:
    data = records(24)
    check(trained(tmp_path, data, batch, accumulation, level=level), 8, data)


class NoKwargs(LlamaForCausalLM):
    """Takes no arguments for its loss, and a Trainer passes none."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


class BeforeScaled(OrderedTrainer):
    """Of transformers before 5.19, which has no attribute that says that the loss is scaled."""

    loss_is_scaled_for_ga = property(lambda _: None, lambda *_: None)


@pytest.mark.parametrize("cls", [OrderedTrainer, BeforeScaled])
@pytest.mark.parametrize("says_so", [False, True])
def test_a_model_that_takes_no_arguments_for_its_loss(tmp_path: Path, says_so: bool, cls: type) -> None:
    """As Qwen3-VL and others say by accepts_loss_kwargs=False; the stock Trainer divides their loss."""
    data, model = records(24), tiny_model()
    if says_so:
        model.accepts_loss_kwargs = False
    else:
        model.__class__ = NoKwargs
    outcome = trained(tmp_path, data, 4, 2, cls, model=model)
    assert not outcome[2].model_accepts_loss_kwargs, "evaluation is not to pass any either"
    check(outcome, 8, data)


# transformers 5.23 has a new name for it, older ones know the old one alone.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"accumulation": 1, "accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
    ],
    ids=["checkpointing, reentrant", "checkpointing", "accumulation by accelerate"],
)
def test_settings_that_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    data, model = records(24), tiny_model()
    options = {"batch": 4, "accumulation": 2} | options
    actual, *_ = trained(tmp_path, data, options.pop("batch"), options.pop("accumulation"), **options)
    start = parameters(model)
    reference, _ = expected(model, windows(data, 8, 5), WEIGHTS)
    assert deviation(actual, reference, start) <= BOUND


def test_the_tasks_matter() -> None:
    """The data is such that other weights lead elsewhere; else nothing above would mean anything."""
    data, model, other = records(24), tiny_model(), tiny_model()
    start = parameters(model)
    weighted, losses = expected(model, windows(data, 8, 5), WEIGHTS)
    plain, plain_losses = expected(other, windows(data, 8, 5), dict.fromkeys(TASKS, 1.0))
    assert deviation(plain, weighted, start) > 1e4 * BOUND
    assert abs(losses[0] / plain_losses[0] - 1) > 0.05


def test_a_short_last_window(tmp_path: Path) -> None:
    """11 records, 2 to a micro-batch, 3 micro-batches to a window: the second is of 2 and 2 and 1."""
    data = records(11)
    outcome = trained(tmp_path, data, 2, 3)
    assert len(outcome[2].losses) == 15
    check(outcome, 6, data)


def test_a_window_across_the_end_of_a_stream(tmp_path: Path) -> None:
    """The Trainer steps once 4 micro-batches of 2 are there, and the stream ends after 6 of them."""
    data, model = records(12), tiny_model()
    start = parameters(model)
    args = arguments(tmp_path, 2, 4, steps=4)
    trainer = CoTBalTrainer(
        tiny_model(), args, train_dataset=Stream(data), data_collator=collator(), weights=WEIGHTS
    )
    trainer.train()
    reference, _ = expected(model, [data[:8], data[8:] + data[:4], data[4:], data[:8]], WEIGHTS)
    assert trainer.state.global_step == 4
    assert deviation(parameters(trainer.model), reference, start) <= BOUND


def test_micro_batches_and_steps_with_nothing_to_train_on(tmp_path: Path) -> None:
    data = records(24)
    data[2:4] = map(ignored, data[2:4])
    # All of the second step.
    data[8:16] = map(ignored, data[8:16])
    outcome = trained(tmp_path, data, 2, 4)
    assert outcome[1][1] == 0
    check(outcome, 8, data)


def test_clipping_sees_the_gradient_of_the_step(tmp_path: Path) -> None:
    data = records(24)
    outcome = trained(tmp_path, data, 2, 4, max_grad_norm=1.0)
    norms = [entry["grad_norm"] for entry in outcome[2].state.log_history if "grad_norm" in entry]
    assert min(norms) > 1.1, "the clipping hardly bites"
    check(outcome, 8, data, clip=1.0)


class ScaledTrainer(OrderedTrainer):
    """As with fp16=True, which asks for a GPU: accelerate scales the loss and unscales the gradients."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)


def test_a_loss_scaler_changes_nothing(tmp_path: Path) -> None:
    """Its scale, which grows, is folded into the step's denominator and taken out of the loss."""
    data = records(24)
    outcome = trained(tmp_path, data, 4, 2, cls=ScaledTrainer)
    check(outcome, 8, data)
    assert outcome[2].accelerator.scaler.get_scale() == 2.0**14
    assert outcome[2].step_loss._loss_scale == 2.0**14


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("n_layers", [0, 2])
def test_packed_rows_train_as_padded_ones(tmp_path: Path, flash: bool, n_layers: int) -> None:
    """Segments are told by position_ids that restart, or by cu_seq_lens."""
    if n_layers and Version(transformers.__version__) < Version("4.56"):
        pytest.skip("before 4.56 attention keeps segments apart with flash-attn alone")
    data = records(24)
    flatten = TaskCollator(
        DataCollatorWithFlattening(return_flash_attn_kwargs=flash, separator_id=5), TASKS, count_valid=False
    )
    outcome = trained(tmp_path, data, 4, 2, make_batch=flatten, model=tiny_model(n_layers))
    check(outcome, 8, data, n_layers=n_layers)


class AddsNothing(Trainer):
    """A user's trainer that calls its parent."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().compute_loss(model, inputs, *args, **kwargs)


class ByItself(Trainer):
    """A user's trainer that calls the model."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class SaysItIsAMean(AddsNothing):
    """The Trainer of transformers 5.19 and newer would divide its loss by the accumulation."""

    loss_is_scaled_for_ga = False


@pytest.mark.parametrize("own", [AddsNothing, ByItself, SaysItIsAMean])
def test_trainers_of_ones_own(tmp_path: Path, own: type) -> None:
    mixed = type("Mixed", (InOrder, CoTBalMixin, own), {})
    data = records(24)
    outcome = trained(tmp_path, data, 4, 2, cls=mixed)
    assert outcome[2].calls == 10
    check(outcome, 8, data)


class CountsItsSteps(Trainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_batches = len(self.get_train_dataloader())


def test_a_constructor_of_ones_own_may_look_at_the_data(tmp_path: Path) -> None:
    """As one that plans a schedule; nothing is known of the tasks yet."""
    data = records(24)
    outcome = trained(tmp_path, data, 4, 2, cls=type("Mixed", (InOrder, CoTBalMixin, CountsItsSteps), {}))
    assert outcome[2].n_batches == 6
    check(outcome, 8, data)


class PastTheModel(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten())


def test_a_loss_past_the_models_own_is_refused(tmp_path: Path) -> None:
    mixed = type("Mixed", (InOrder, CoTBalMixin, PastTheModel), {})
    with pytest.raises(ValueError, match="labels: expected them in every training batch of LlamaForCausalLM"):
        trained(tmp_path, records(8), 4, 2, cls=mixed)


def test_the_loss_is_not_the_models_own_output(tmp_path: Path) -> None:
    """DeepSpeed without ZeRO divides the gradient at that output, unless it saw the loss before it."""

    class Engine(OrderedTrainer):
        seen: list[str]

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
            def watch(module: Any, given: Any, outputs: Any) -> None:
                outputs.loss.register_hook(lambda _: self.seen.append("output"))

            handle, self.seen = model.register_forward_hook(watch), []
            own = self.accelerator.backward
            self.accelerator.backward = lambda loss, **kwargs: (
                loss.register_hook(lambda _: self.seen.append("loss")),
                own(loss, **kwargs),
            )
            try:
                return super().training_step(model, inputs, *args, **kwargs)
            finally:
                handle.remove()
                self.accelerator.backward = own

    _, _, trainer = trained(tmp_path, records(8), 8, 1, cls=Engine, steps=1)
    assert trainer.seen == ["loss", "output"]


class FromTheLogits(Trainer):
    """A user's trainer that gives the model its labels, and takes the logits all the same."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        logits = model(**inputs).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())


class WithoutItsParent(CoTBalTrainer):
    """A user's trainer that never comes to our loss."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(**inputs).loss


@pytest.mark.parametrize(
    ("cls", "came"),
    [
        (type("Mixed", (InOrder, CoTBalMixin, FromTheLogits), {}), "computes a loss of its own"),
        (WithoutItsParent, r"does not call super\(\).compute_loss"),
    ],
)
def test_another_loss_than_the_steps_is_not_trained_on(tmp_path: Path, cls: type, came: str) -> None:
    """The task weights would have no effect, and nothing would say so."""
    with pytest.raises(ValueError, match=f"compute_loss: expected .* {came}"):
        trained(tmp_path, records(8), 4, 2, cls=cls, level="logits")


def test_a_model_that_stays_in_evaluation_mode_is_told(tmp_path: Path) -> None:
    """As some keep dropout off: it was told to call super().compute_loss."""
    model = tiny_model().eval()
    model.train = lambda mode=True: model
    with pytest.raises(ValueError, match=r"expected LlamaForCausalLM in training mode, .* evaluation"):
        trained(tmp_path, records(8), 4, 1, model=model)


class Scaled(Trainer):
    """A user's trainer that does something to the model's loss."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return 1.0 * model(**inputs).loss.float()


def test_what_is_made_of_the_steps_loss_is_trained_on(tmp_path: Path) -> None:
    data = records(24)
    mixed = type("Mixed", (InOrder, CoTBalMixin, Scaled), {})
    check(trained(tmp_path, data, 4, 2, cls=mixed), 8, data)


@pytest.mark.full
@pytest.mark.parametrize("level", ["linear", "logits"])
def test_a_compiled_model_is_not_traced_anew_for_each_batch(tmp_path: Path, level: str) -> None:
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        check(trained(tmp_path, records(24), 2, 4, level=level, **options), 8, records(24))


def test_a_model_made_by_model_init_has_the_loss(tmp_path: Path) -> None:
    trainer = OrderedTrainer(
        args=arguments(tmp_path, 8),
        model_init=lambda: tiny_model(),
        train_dataset=records(24),
        data_collator=collator(),
        weights=WEIGHTS,
    )
    trainer.train()
    check((parameters(trainer.model), [loss.item() for loss in trainer.losses], trainer), 8, records(24))


def test_a_model_init_may_return_the_same_model_again(tmp_path: Path) -> None:
    model, options = tiny_model(), {"train_dataset": records(8), "data_collator": collator()}
    trainer = CoTBalTrainer(
        args=arguments(tmp_path, 8, steps=1), model_init=lambda: model, weights=WEIGHTS, **options
    )
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("documented", [CoTBalMixin, CoTBalTrainer])
def test_every_example_runs(documented: type, monkeypatch: pytest.MonkeyPatch) -> None:
    # DeepSpeed, which the first Trainer imports, would tell on the example's output what it has found.
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    check_examples(documented)
