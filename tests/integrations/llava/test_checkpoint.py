"""What a training that was killed has left, and that the same command goes on from it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from tests.integrations.llava.cases import Case
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World

# torch's deprecations in the code of LLaVA and transformers, an open file of LLaVA's.
pytestmark = pytest.mark.filterwarnings("ignore")
_SAVING = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}


def test_a_kill_within_a_save_leaves_the_checkpoint_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second checkpoint the model is there, not yet the trainer's state."""
    own = Trainer._save_rng_state

    def killed(trainer: Any, folder: str) -> None:
        if trainer.state.global_step == 2:
            raise RuntimeError("killed")
        own(trainer, folder)

    with monkeypatch.context() as within:
        within.setattr(Trainer, "_save_rng_state", killed)
        assert "killed" in run(Case("killed", _SAVING), world, tmp_path).error
    output = tmp_path / "killed" / "output"
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-1"]
    # Torch reads the random numbers' state without being told to trust every pickle.
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    assert not (error := run(Case("on", _SAVING, resumes="killed"), world, tmp_path).error), error
    for step in (1, 2):
        saved = json.loads((output / f"checkpoint-{step}" / "cotbal_weighting.json").read_text())
        assert saved["state"]["step"] == step
