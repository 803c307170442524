"""A loss that is compared, and what most of them share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmarks.inputs import IGNORE, LossInputs

Loss = Callable[[LossInputs], Tensor]
# fn(logits (R, V), labels (R,)), or fn(hidden (R, D), head (V, D), labels (R,)) -> the loss of each row (R,),
# 0 where ignored.
RowLosses = Callable[..., Tensor]


@dataclass(frozen=True)
class Provider:
    """One loss at one level.

    Attributes:
        name: in tables and result files.
        level: "logits" or "linear".
        run: returns the 0-d float32 loss of inputs, whose features it may overwrite.
        configured: how it is called and why that is its best.
        weighted: False for a rival that can only compute the plain mean.
        exact: False where gradients are left out on purpose.
        compacts: whether it leaves ignored rows out before its products (linear level).
        ours: whether it is cotbal's.
        needs: "gpu", "triton" (a GPU, or the interpreter in its place) or "".
        same_on_cpu: False where it takes another path on a CPU: what it moves there says nothing.
        slow_start: whether each new shape costs seconds of compiling.
    """

    name: str
    level: str
    run: Loss
    configured: str
    weighted: bool = True
    exact: bool = True
    compacts: bool = False
    ours: bool = False
    needs: str = ""
    same_on_cpu: bool = True
    slow_start: bool = False


@dataclass(frozen=True)
class Absent:
    """A rival that is not installed or does not import here."""

    name: str
    level: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.level}): skipped, {self.reason}"


# Imports a rival, and may fail.
Build = Callable[[], Provider]


def compiled(loss: Loss) -> Loss:
    """`loss` through torch.compile with static shapes; the compiler is imported at the first call, slowly."""

    @cache
    def make() -> Loss:
        # One shape after another is compiled on purpose; the default gives up after 8.
        torch._dynamo.config.recompile_limit = 256
        return torch.compile(loss, dynamic=False)

    return lambda inputs: make()(inputs)


def from_rows(row_losses: RowLosses) -> Loss:
    """Eq. 2 from the loss of each row, the weights outside: the emulation of every rival without weights."""

    def run(inputs: LossInputs) -> Tensor:
        return torch.dot(row_losses(*inputs.features, inputs.labels).float(), inputs.row_scale)

    return run


def compacted(row_losses: RowLosses) -> Loss:
    """The same on the valid rows alone, taken by a boolean mask as a user writes it."""

    def run(inputs: LossInputs) -> Tensor:
        rows, *head = inputs.features
        valid = inputs.labels != IGNORE
        losses = row_losses(rows[valid], *head, inputs.labels[valid])
        return torch.dot(losses.float(), inputs.row_scale[valid])

    return run
