"""What the loss costs LLaVA's own training: time and peak memory of a step, patched beside unpatched.

    .venv-llava/bin/python -m tests.integrations.llava.cost

The model is tiny and its head as wide as LLaVA's, so that a step is little else than head and loss.
"""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer

import tests.conftest  # noqa: F401
from benchmarks.meters import CpuMeter
from tests.integrations.llava.cases import EQUAL, Case
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World, make_wide_model, make_world

VOCABULARY = 32000
_WARM_UP, _TIMED = 1, 3
_ROUNDS = 2


@dataclass
class Cost:
    """Of one training step, forward and backward, without the optimizer's.

    Attributes:
        milliseconds: of each timed step.
        peak_mib: how far the last step raised torch's memory.
        losses: of every step.
    """

    milliseconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    losses: list[float] = field(default_factory=list)


def measure(world: World, folder: Path, *, patched: bool, bf16: bool = False, timed: int = 1) -> Cost:
    """Trains a few steps with all weights 1, so that both compute the same loss."""
    cost = Cost()
    case = Case(
        f"patched_{patched}_{bf16}",
        {"max_steps": _WARM_UP + timed + 1, "per_device_train_batch_size": 8, "bf16": bf16},
        weights=EQUAL if patched else None,
        model=f"wide_{VOCABULARY}",
    )
    with _metered(cost, timed), contextlib.redirect_stdout(io.StringIO()):
        recording = run(case, world, folder)
    assert not recording.error, recording.error
    return cost


@contextlib.contextmanager
def _metered(cost: Cost, timed: int) -> Iterator[None]:
    train = Trainer.train

    def metered_train(trainer: Trainer, *arguments: Any, **keywords: Any) -> Any:
        training_step = trainer.training_step

        def metered_step(*inputs: Any) -> Tensor:
            made: list[Tensor] = []
            step, start = trainer.state.global_step, time.perf_counter()
            if step == _WARM_UP + timed:
                cost.peak_mib = CpuMeter().peak_mib(lambda: made.append(training_step(*inputs)))
            else:
                made.append(training_step(*inputs))
                if step >= _WARM_UP:
                    cost.milliseconds.append(1e3 * (time.perf_counter() - start))
            cost.losses.append(made[0].item())
            return made[0]

        trainer.training_step = metered_step
        return train(trainer, *arguments, **keywords)

    Trainer.train = metered_train
    try:
        yield
    finally:
        Trainer.train = train


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(folder / "world")
        make_wide_model(world, VOCABULARY)
        lines = [f"{'':10s}{'':16s}{'LLaVA':>10s}{'patched':>10s}{'ratio':>8s}"]
        for bf16 in (False, True):
            # In turns, as the machine's speed drifts.
            pairs = [
                tuple(
                    measure(world, folder, patched=patched, bf16=bf16, timed=_TIMED)
                    for patched in (False, True)
                )
                for _ in range(_ROUNDS)
            ]
            # A number on the wrong loss is worth nothing.
            assert all(agree(*pair, 1e-3 if bf16 else 1e-6) for pair in pairs)
            for title, row in _rows(pairs):
                lines.append(f"{'bfloat16' if bf16 else 'float32':10s}{title:16s}{row}")
    print(f"A training step of LLaVA's own train(), batch 8, V = {VOCABULARY}, on a CPU:", *lines, sep="\n")


def agree(own: Cost, ours: Cost, tolerance: float) -> bool:
    """Whether the first step's loss, of the same parameters, is the same."""
    return abs(ours.losses[0] - own.losses[0]) <= tolerance * own.losses[0]


def _rows(pairs: list[tuple[Cost, ...]]) -> Iterator[tuple[str, str]]:
    times = [statistics.median(t for pair in pairs for t in pair[side].milliseconds) for side in (0, 1)]
    peaks = [max(pair[side].peak_mib for pair in pairs) for side in (0, 1)]
    for title, (own, ours) in (("time (ms)", times), ("peak (MiB)", peaks)):
        yield title, f"{own:10.1f}{ours:10.1f}{ours / own:8.3f}"


if __name__ == "__main__":
    main()
