"""The state of the weighting and the sums not yet logged, beside the Trainer's own files."""

import json
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from cotbal.balancing import StaticWeights
from cotbal.files import json_object, write_text_atomically
from cotbal.step_balance import StepBalance

SCHEMA_VERSION = 1
FILE_NAME = "cotbal_weighting.json"


def check_saved(trainer: Any, balance: StepBalance) -> None:
    """Checks that a training which saves checkpoints can save its rule: now, and not at the first of them.

    Raises:
        TypeError: a rule that holds something that JSON cannot.
    """
    if trainer.args.save_strategy != "no":
        balance.state_dict()


def save_weighting(trainer: Any, balance: StepBalance, trial: Any) -> None:
    """Writes the state into the folder of the checkpoint that is about to be saved."""
    folder = f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    if trainer.args.should_save:
        write_weighting(balance, Path(trainer._get_output_dir(trial=trial)) / folder)


def write_weighting(balance: StepBalance, folder: str | Path) -> None:
    """Writes the state into the folder of a checkpoint, after the balance's `flush`."""
    content = {"schema_version": SCHEMA_VERSION, "state": balance.weighting.state_dict()}
    content["meter"] = balance.meter.state_dict()
    write_text_atomically(Path(folder) / FILE_NAME, json.dumps(content) + "\n")


def load_weighting(balance: StepBalance, checkpoint: str | Path) -> None:
    """Restores the weighting and the sums from a checkpoint's folder; every rank reads the same file.

    Raises:
        ValueError: there is no state and the weighting has one, or it is of another weighting or schema.
    """
    weighting, path = balance.weighting, Path(checkpoint) / FILE_NAME
    if not path.exists():
        if isinstance(weighting, StaticWeights):
            return
        raise ValueError(
            f"resume_from_checkpoint: expected {FILE_NAME} in {checkpoint}, got none; a run of "
            f"{type(weighting).__name__} goes on from a checkpoint of its own only"
        )
    content = json_object(path, "the state of a rule", "resume from another checkpoint")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, got {content.get('schema_version')!r}; "
            "resume with the version of cotbal that wrote it"
        )
    try:
        weighting.load_state_dict(content["state"])
        # An older checkpoint has none.
        if "meter" in content:
            balance.meter.load_state_dict(content["meter"], balance.device)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the whole state of a {type(weighting).__name__}, got a part of it "
            f"({type(error).__name__}: {error}); resume from another checkpoint"
        ) from error
