"""One micro-batch of a model under a loss that is put in at a level, and how far two such runs are apart."""

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cotbal.integrations.huggingface.levels import Installed, install_loss
from cotbal.step_loss import StepLoss

# Far apart, and not 1 anywhere: a dropped weight is seen.
WEIGHTS = torch.tensor([0.25, 4.0])
DENOMINATOR = torch.tensor(9.0)
TASK_IDS = torch.tensor([0, 1])


class Run(NamedTuple):
    """What came out of one pass, after its backward pass."""

    loss: Tensor
    logits: Any
    gradients: dict[str, Tensor]
    installed: Installed | None


def run(model: nn.Module, batch: dict[str, Tensor], level: str, task_ids: Tensor = TASK_IDS) -> Run:
    """Forward and backward with the loss at `level`; the model is as before, its gradients apart."""
    step_loss = StepLoss(2)
    installed = install_loss(model, step_loss, level)
    step_loss.begin_step(WEIGHTS, DENOMINATOR)
    model.zero_grad()
    with step_loss.micro_batch(task_ids):
        outputs = model(**batch)
    outputs.loss.backward()
    installed.restore()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Run(outputs.loss.detach(), outputs.logits, gradients, installed)


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    """The same loss by hand: Eq. 2 with the given denominator, from logits (2, S, V) and labels (2, S)."""
    rows = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none"
    )
    return (rows.view(2, -1).sum(1) * WEIGHTS).sum() / DENOMINATOR


class Errors(NamedTuple):
    """How far loss and gradients at one level are from those at the logits level, relative.

    Attributes:
        float64: the largest error of any tensor, each relative to its own largest entry.
        float32: the error of the loss, or the norm of all gradients' error over the norm of all gradients.
    """

    float64: float
    float32: float

    @property
    def exact(self) -> bool:
        return all(error <= bound for error, bound in zip(self, BOUNDS, strict=True))


# In float32 a tensor by itself shows the body's rounding, not the loss's: what remains of it where large
# terms cancel (up to 4e-6 in 180 draws of these models) hangs on the CPU. All gradients together are well
# conditioned, and in float64 rounding leaves 1e-15 of each.
BOUNDS = Errors(float64=1e-12, float32=1e-5)
# A bias of attention's keys has the gradient 0 but for rounding: softmax cancels it.
ZERO = 1e-12


def errors(model: nn.Module, batch: dict[str, Tensor], level: str = "linear") -> Errors:
    """Those of `level`, from runs of the float32 model and of its copy in float64."""
    double = in_double(model, batch)
    return Errors(
        float64=_largest_error(run(*double, level), run(*double, "logits")),
        float32=whole_error(run(model, batch, level), run(model, batch, "logits")),
    )


def in_double(model: nn.Module, batch: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copies in float64; integers stay."""
    floats = {key: value.double() for key, value in batch.items() if value.is_floating_point()}
    return copy.deepcopy(model).double(), batch | floats


def largest_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest error of tensors in float64, each relative to its largest entry."""
    assert actual.keys() == expected.keys()
    assert {value.dtype for value in (*actual.values(), *expected.values())} == {torch.float64}
    zero = ZERO * max(value.abs().max().item() for value in expected.values())
    return max(_relative(actual[name], value, zero) for name, value in expected.items())


def _largest_error(actual: Run, expected: Run) -> float:
    gradients = largest_error(actual.gradients, expected.gradients)
    return max(_relative(actual.loss, expected.loss, 0.0), gradients)


def whole_error(actual: Run, expected: Run) -> float:
    assert actual.gradients.keys() == expected.gradients.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected.gradients.values()])
    off = whole - torch.cat([actual.gradients[name].flatten() for name in expected.gradients])
    return max(_relative(actual.loss, expected.loss, 0.0), (off.norm() / whole.norm()).item())


def _relative(actual: Tensor, expected: Tensor, zero: float) -> float:
    largest, error = expected.abs().max().item(), (actual - expected).abs().max().item()
    # A NaN is lost in max().
    assert math.isfinite(error)
    if largest <= zero:
        return 0.0 if actual.abs().max().item() <= zero else float("inf")
    return error / largest
