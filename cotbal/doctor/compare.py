"""One batch through a model with its own loss and with ours: loss, gradients, time and peak memory."""

from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cotbal._draws import devices_of, own_draws
from cotbal._float64 import as_float64, widest_float
from cotbal.doctor.batches import check_batch
from cotbal.doctor.float32_head import heads_of, in_float32
from cotbal.doctor.measure import milliseconds, peak_mib
from cotbal.doctor.runners import Plain, Runner
from cotbal.normalizer import task_token_counts
from cotbal.step_loss import StepLoss

# Relative errors by the coarsest dtype that the model computes in. float32: what the two ways round
# differently. 16 bits: what the body's backward pass makes of gradients that are rounded to them.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}

# Below it a float32 loss of torch's is rounding, relatively.
SMALL_LOSS = 1e-3

# Two tasks far apart.
_WEIGHTS = (0.25, 4.0)
_ONES = (1.0, 1.0)


@dataclass(frozen=True)
class Pass:
    """One way through the model, forward and backward.

    Attributes:
        name: which loss it was.
        loss: its value.
        gradient_norm: over all parameters.
        loss_error: against the pass that it must equal, relative; None for that one itself. At the linear
            level of a model in 16 bits: against the latter with `lm_head` in float32, for both.
        gradient_error: the norm of the difference over the norm, over all parameters.
        milliseconds: of a second call.
        peak_mib: how far tensors' memory rises above what is held before.
    """

    name: str
    loss: float
    gradient_norm: float
    loss_error: float | None
    gradient_error: float | None
    milliseconds: float
    peak_mib: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        level: "linear" or "logits".
        reason: why this level.
        tolerance: the largest relative error that counts as equal, beyond that of the pass to be equalled.
        passes: the model's own loss, ours with all weights 1; then weights of two tasks by hand, and ours.
    """

    level: str
    reason: str
    tolerance: float
    passes: tuple[Pass, ...]

    @property
    def agrees(self) -> bool:
        """Whether every loss and gradient of ours is what it must be; NaN is not."""
        pairs = zip(self.passes[::2], self.passes[1::2], strict=True)
        return all(
            ours is not None and ours <= self.tolerance + (theirs or 0.0)
            for expected, found in pairs
            for theirs, ours in zip(_errors(expected), _errors(found), strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and strings."""
        return {**asdict(self), "agrees": self.agrees}


def compare(
    model: nn.Module, batch: Mapping[str, Any], level: str = "auto", runner: Runner | None = None
) -> Comparison:
    """Run one batch through the model with its own loss and with ours.

    Gradients that the model holds are dropped; parameters and the random state stay, and so does the loss
    that it had.

    Args:
        model: a transformers model, PEFT's model of one included, on the device that it trains on.
        batch: what its collator made: `labels` and the inputs of `forward`, tensors or not. `cotbal_*` keys
            are left out.
        level: "auto", "linear" or "logits".
        runner: an engine around the model; without one the model is called as it is.

    Raises:
        ValueError: the loss cannot be put into this model, or the batch does not fit it or has nothing to
            train on; the message says why.
        TypeError: labels that are not a tensor of int64.

    Example:
        >>> from cotbal.doctor import compare, load_model, random_batch
        >>> model = load_model()
        >>> compare(model, random_batch(model)).agrees
        True
    """
    from cotbal.integrations.huggingface.heads import inner_model
    from cotbal.integrations.huggingface.levels import install_loss
    from cotbal.integrations.huggingface.routers import router_coefficient

    runner = runner or Plain(model)
    device = next(model.parameters()).device
    inputs = {key: _on(device, value) for key, value in batch.items() if not key.startswith("cotbal_")}
    check_batch(model, inputs)
    step_loss = StepLoss(2)
    heads = heads_of(model)
    installed = install_loss(model, step_loss, level)
    # The model rounds its logits to 16 bits, which costs a gradient percents; ours at that level does not.
    rounded = installed.level == "linear" and any(head.weight.dtype.itemsize == 2 for head in heads)
    router = router_coefficient(inner_model(model))
    check = _Check(
        runner,
        inputs,
        step_loss,
        devices_of(model),
        heads if rounded else (),
        router.value if router else 0.0,
    )
    try:
        own = check.pair("the model's own loss", lambda: runner(**inputs).loss, "ours, all weights 1", _ONES)
        by_hand = check.pair("weighted by hand", check.by_hand(), "ours, weighted", _WEIGHTS)
    finally:
        installed.restore()
    tolerance = max(TOLERANCE[dtype] for dtype in _dtypes(model))
    reason = installed.reason + _left_out(inner_model(model))
    return Comparison(installed.level, reason, tolerance, (*own, *by_hand))


def _on(device: torch.device, value: Any) -> Any:
    """A value of a batch, its tensors on the device; images of several sizes come as a list of them."""
    if isinstance(value, list | tuple):
        return [_on(device, each) for each in value]
    return value.to(device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class _Found:
    measured: Pass
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class _Check:
    runner: Runner
    inputs: dict[str, Any]
    step_loss: StepLoss
    devices: Set[torch.device]
    rounding_heads: tuple[nn.Linear, ...] = ()
    coefficient: float = 0.0

    @property
    def task_ids(self) -> Tensor:
        """(B, S): rows take the tasks by turns, the tokens of a single row do."""
        labels = self.inputs["labels"]
        rows, tokens = (torch.arange(size, device=labels.device) for size in labels.shape)
        return (tokens.expand_as(labels) if len(rows) == 1 else rows[:, None].expand_as(labels)) % len(
            _WEIGHTS
        )

    def constants(self, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        labels = self.inputs["labels"]
        values = torch.tensor(weights, device=labels.device)
        counts = task_token_counts(labels, self.task_ids, len(weights), shift=True)
        denominator = as_float64(values) @ as_float64(counts)
        return values, denominator.to(widest_float(values.device)).to(values.device)

    def ours(self, weights: tuple[float, ...]) -> Callable[[], Tensor]:
        self.step_loss.begin_step(*self.constants(weights), auxiliary_share=1.0)
        task_ids = self.task_ids

        def loss_of() -> Tensor:
            with self.step_loss.micro_batch(task_ids):
                loss: Tensor = self.runner(**self.inputs).loss
            self.step_loss.take_sums()
            return loss

        return loss_of

    def by_hand(self) -> Callable[[], Tensor]:
        """Eq. 2 with torch's own cross-entropy, from the model's logits, and its routers' loss."""
        weights, denominator = self.constants(_WEIGHTS)
        labels: Tensor = self.inputs["labels"][:, 1:]
        of_token = weights[self.task_ids[:, 1:]] / denominator.float()
        unlabelled = {key: value for key, value in self.inputs.items() if key != "labels"}

        def loss_of() -> Tensor:
            outputs = self.runner(**unlabelled)
            logits = outputs.logits[:, :-1].flatten(0, 1).float()
            rows = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none")
            loss = (rows.view(labels.shape) * of_token).sum()
            routers = getattr(outputs, "aux_loss", None)
            return loss if routers is None else loss + self.coefficient * routers

        return loss_of

    def pair(
        self, name: str, loss_of: Callable[[], Tensor], our_name: str, weights: tuple[float, ...]
    ) -> tuple[Pass, Pass]:
        """What is expected and ours; only here are two gradients held."""
        exact = None
        if self.rounding_heads:
            with in_float32(self.rounding_heads):
                exact = self.run(name, loss_of)
        expected = self.run(name, loss_of, exact)
        return expected.measured, self.run(our_name, self.ours(weights), exact or expected).measured

    def run(self, name: str, loss_of: Callable[[], Tensor], expected: _Found | None = None) -> _Found:
        """Once for the numbers, once for the time, once for the memory; each starts from the same state."""
        device = self.inputs["labels"].device

        def step() -> float:
            self.runner.clear()
            with own_draws(0, self.devices):
                loss = loss_of()
                self.runner.backward(loss)
            return float(loss.detach())

        loss, gradients = step(), self.runner.gradients()
        time = milliseconds(step, device)
        # What was held before the measurement must not be given back within it.
        self.runner.clear()
        measured = Pass(
            name,
            loss,
            gradient_norm=_norm(gradients.values()),
            loss_error=None
            if expected is None
            else _relative(abs(loss - expected.measured.loss), expected.measured.loss),
            gradient_error=None if expected is None else _distance(gradients, expected.gradients),
            milliseconds=time,
            peak_mib=peak_mib(step, device),
        )
        self.runner.clear()
        return _Found(measured, gradients)


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    """Those that it computes in; a layer of packed weights says by itself in which."""
    of_parameters = {parameter.dtype for parameter in model.parameters()}
    of_layers = {getattr(module, "compute_dtype", None) for module in model.modules()}
    return {dtype for dtype in TOLERANCE if dtype in of_parameters | of_layers}


def _left_out(model: Any) -> str:
    """What the level of a random model does not know: a quantised head has the logits level."""
    is_asked = getattr(model.config, "quantization_config", None) is not None
    if not is_asked or hasattr(model, "quantization_method"):
        return ""
    return "; without the quantization_config of config.json, as there are no weights to quantise"


def _errors(measured: Pass) -> tuple[float | None, float | None]:
    return measured.loss_error, measured.gradient_error


def _norm(tensors: Any) -> float:
    return float(torch.stack([as_float64(tensor).norm() for tensor in tensors]).norm())


def _distance(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    if actual.keys() != expected.keys():
        return float("inf")
    differences = (as_float64(actual[name]) - as_float64(expected[name]) for name in expected)
    return _relative(_norm(differences), _norm(expected.values()))


def _relative(difference: float, value: float) -> float:
    """A model that is sure of every label has a loss and a gradient of exactly 0 by torch."""
    return difference / value if value else float("inf") if difference else 0.0
