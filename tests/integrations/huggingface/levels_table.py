"""The adapter's table of model classes: `python -m tests.integrations.huggingface.levels_table`.

What each class supports, found by running it; the peak memory of forward and backward at both levels.
"""

import os

# Before torch, which on many threads holds a buffer for each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before torch: a CPU's allocator would tell on the terminal what the profiler has not seen.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch

from cotbal.doctor.measure import peak_mib
from tests.integrations.huggingface.level_cases import CASES, Size, build
from tests.integrations.huggingface.level_runs import Errors, errors, run

HEADER = ("class", "linear", "logits", "why", "peak MiB, linear / logits")

# The logits are what takes the memory, as in training: V / D is 64 here, 30 or more in the models themselves.
_SIZE = Size(vocab=2048, text=240)
_VALID = 0.3


def support(name: str) -> tuple[str, str, str, str]:
    """The class, "exact" or what is wrong at each level, and the reason that `install_loss` gives."""
    model, batch = build(name)
    installed = run(model, batch, "auto").installed
    if installed.level == "logits":
        return name, "no", "exact", installed.reason
    return name, _exact(errors(model, batch)), "exact", _why(installed.reason)


def peaks(name: str) -> tuple[float, float]:
    """The peak memory of a run at the linear level and at the logits level, in MiB."""
    model, batch = build(name, _SIZE, _VALID)
    linear, logits = (
        peak_mib(lambda level=level: run(model, batch, level), torch.device("cpu"))
        for level in ("linear", "logits")
    )
    return linear, logits


def in_words(linear: float, logits: float) -> str:
    """The cell of a table."""
    return f"{linear:.1f} / {logits:.1f}"


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The lines of a table."""
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _exact(found: Errors) -> str:
    return "exact" if found.exact else f"off by {max(found):.0e}"


def _why(reason: str) -> str:
    """What the class does to its logits, without the numbers of its tiny configuration."""
    found = [what for what in ("softcap", "scale") if what in reason]
    return f"{' and '.join(found)} inside the loss" if found else "plain logits"


if __name__ == "__main__":
    print(markdown([(*support(name), in_words(*peaks(name))) for name in CASES]))
