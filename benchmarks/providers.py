"""The losses that are compared: ours and every rival that can be had, each at its best configuration.

A rival without weights of its own returns the loss of each row, and the weights go on outside; one that
cannot is 'unweighted' and computes the plain mean. An absent rival is named with the reason.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmarks.inputs import LossInputs

Loss = Callable[[LossInputs], Tensor]


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


@dataclass(frozen=True)
class Candidate:
    """How to come by a provider: `build` imports the rival and may fail."""

    name: str
    level: str
    build: Callable[[], Provider]


def find_providers(
    level: str, device: torch.device | str = "cpu", *, names: tuple[str, ...] = ()
) -> tuple[list[Provider], list[Absent]]:
    """The providers of a level that import and run on `device`, and the others with the reason.

    Args:
        level: "logits" or "linear".
        device: one that needs a GPU is absent on a CPU.
        names: only these, where given.
    """
    from benchmarks.linear_providers import LINEAR
    from benchmarks.logits_providers import LOGITS

    found: list[Provider] = []
    absent: list[Absent] = []
    for candidate in {"logits": LOGITS, "linear": LINEAR}[level]:
        if names and candidate.name not in names:
            continue
        try:
            provider = candidate.build()
        # A rival's import may fail in any way that its dependencies know; none of them is ours to raise.
        except Exception as error:
            absent.append(Absent(candidate.name, level, _in_words(error)))
            continue
        missing = _missing(provider, torch.device(device))
        if missing:
            absent.append(Absent(provider.name, level, missing))
        else:
            found.append(provider)
    return found, absent


def compiled(loss: Loss) -> Loss:
    """`loss` through torch.compile with static shapes; the compiler is imported at the first call, slowly."""

    @cache
    def make() -> Loss:
        # One shape after another is compiled on purpose; the default gives up after 8.
        torch._dynamo.config.recompile_limit = 256
        return torch.compile(loss, dynamic=False)

    return lambda inputs: make()(inputs)


def _missing(provider: Provider, device: torch.device) -> str:
    if device.type == "cuda" or not provider.needs:
        return ""
    if provider.needs == "triton":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "its kernels need a GPU"
    return "it needs a GPU"


def weighted_outside(losses: Tensor, inputs: LossInputs) -> Tensor:
    """Eq. 2 from the loss of each row: the emulation that every rival without weights gets."""
    return torch.dot(losses.float(), inputs.row_scale)


def _in_words(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {first[:120]}"
