"""Which checkpoint of a Trainer is the one to go on from."""

from pathlib import Path
from typing import Any

from cotbal.files import json_object

# What a Trainer writes last into a checkpoint.
_STATE = "trainer_state.json"


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The whole `checkpoint-N` of the largest N; None where there is none.

    Args:
        folder: an `--output_dir`.

    Raises:
        OSError: the disk does not give one out; an older one would be scored, or gone on from, in its place.
    """
    found = [path.parent for path in Path(folder).glob(f"checkpoint-*/{_STATE}")]
    steps = {path.name.removeprefix("checkpoint-"): path for path in found}
    newest = sorted(filter(str.isdecimal, steps), key=int, reverse=True)
    # Only as many are read as it takes: with all curves in each they are slow to.
    return next((steps[step] for step in newest if _is_whole(steps[step])), None)


def stopped(folder: str | Path, made: int, planned: int) -> str:
    """What is said of a training that a signal has stopped: transformers tells nobody of it.

    Args:
        folder: an `--output_dir`.
        made: steps.
        planned: likewise.
    """
    newest = newest_checkpoint(folder)
    return (
        f"expected {planned} steps, got {made}, where the training was stopped (by a signal under "
        "enable_jit_checkpoint): its model is not saved. Start it again, and it "
        f"{'begins anew' if newest is None else f'goes on from {newest}'}"
    )


def training_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its training; OSError or ValueError where it is not whole."""
    return json_object(checkpoint / _STATE, "the state of a training", "name another checkpoint")


def _is_whole(checkpoint: Path) -> bool:
    try:
        training_state(checkpoint)
    except (FileNotFoundError, ValueError):
        return False
    return True
