"""Which checkpoint in an `--output_dir` of ms-swift is the one to go on from, or to ask."""

from pathlib import Path
from typing import Any

from cotbal.files import json_object

# What a Trainer writes last into a checkpoint.
_STATE = "trainer_state.json"


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The whole `checkpoint-N` of the largest N; None where there is none.

    ms-swift's own link `last-checkpoint` is not asked: for a while it points to the one before, which may be
    deleted already.

    Args:
        folder: an `--output_dir`.
    """
    found = [path.parent for path in Path(folder).glob(f"checkpoint-*/{_STATE}")]
    steps = {path.name.removeprefix("checkpoint-"): path for path in found if _is_whole(path)}
    newest = max((step for step in steps if step.isdecimal()), key=int, default=None)
    return None if newest is None else steps[newest]


def _is_whole(checkpoint: Path) -> bool:
    try:
        _state(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def _state(checkpoint: Path) -> dict[str, Any]:
    return json_object(checkpoint / _STATE, "the state of a training", "name another checkpoint")


def trained_checkpoint(folder: str | Path) -> Path:
    """The folder itself where it is a model, else the newest checkpoint in it, of a training that ended.

    Args:
        folder: a checkpoint, or an `--output_dir`.

    Raises:
        ValueError: there is none, or it is not of the training's last step.
    """
    folder = Path(folder)
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return folder
    newest = newest_checkpoint(folder)
    if newest is None:
        raise ValueError(
            f"--model: expected a model, or an --output_dir with a checkpoint in it, got {folder} "
            "without one; train with --save_strategy steps or epoch, and --add_version false"
        )
    state = _state(newest)
    if state.get("global_step") != state.get("max_steps"):
        raise ValueError(
            f"--model: expected a training that ended, got {newest}, step {state.get('global_step')} of "
            f"{state.get('max_steps')}; train on, or name the checkpoint itself"
        )
    return newest
