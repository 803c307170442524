"""The losses that are compared: ours and every rival that can be had, each at its best configuration.

A rival without weights of its own returns the loss of each row, and the weights go on outside; one that
cannot is 'unweighted' and computes the plain mean. An absent rival is named with the reason.
"""

import os

import torch

from benchmarks.linear_providers import LINEAR
from benchmarks.logits_providers import LOGITS
from benchmarks.provider import Absent, Provider


def find_providers(
    level: str, device: torch.device | str = "cpu", *, names: tuple[str, ...] = ()
) -> tuple[list[Provider], list[Absent]]:
    """The providers of a level that import and run on `device`, and the others with the reason.

    Args:
        level: "logits" or "linear".
        device: one that needs a GPU is absent on a CPU.
        names: only these, where given.
    """
    found: list[Provider] = []
    absent: list[Absent] = []
    for name, build in {"logits": LOGITS, "linear": LINEAR}[level].items():
        if names and name not in names:
            continue
        try:
            provider = build()
        # A rival's import may fail in any way that its dependencies know; none of them is ours to raise.
        except Exception as error:
            absent.append(Absent(name, level, _in_words(error)))
            continue
        missing = _missing(provider, torch.device(device))
        if missing:
            absent.append(Absent(name, level, missing))
        else:
            found.append(provider)
    return found, absent


def _missing(provider: Provider, device: torch.device) -> str:
    if device.type == "cuda" or not provider.needs:
        return ""
    if provider.needs == "triton":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "its kernels need a GPU"
    return "it needs a GPU"


def _in_words(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {first[:120]}"
