"""Which checkpoint in an `--output_dir` of ms-swift is the model.

ms-swift's own link `last-checkpoint` is not asked: for a while it points to the one before the newest, which
may be deleted already.
"""

from pathlib import Path

from cotbal.integrations.checkpoints import newest_checkpoint, training_state


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
    state = training_state(newest)
    if state.get("global_step") != state.get("max_steps"):
        raise ValueError(
            f"--model: expected a training that ended, got {newest}, step {state.get('global_step')} of "
            f"{state.get('max_steps')}; train on, or name the checkpoint itself"
        )
    return newest
