"""Which checkpoint a training goes on from, and what is read to find it."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import EarlyStoppingCallback

from cotbal.integrations import checkpoints
from cotbal.integrations.llamafactory.hooks import _to_the_end
from cotbal.integrations.llamafactory.options import StoppedError


@pytest.mark.parametrize("broken", [0, 2])
def test_no_more_checkpoints_are_read_than_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """Each holds all curves up to it: to read all of them takes the longer the more steps there are."""
    names = [f"checkpoint-{step}" for step in (8, 90, 100, 1000, 1100, 1200)]
    for place, name in enumerate(names):
        (tmp_path / name).mkdir()
        state = "{}" if place < len(names) - broken else '{"best'
        (tmp_path / name / "trainer_state.json").write_text(state)
    read: list[str] = []
    own = checkpoints.training_state
    monkeypatch.setattr(checkpoints, "training_state", lambda path: read.append(path.name) or own(path))
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / names[-1 - broken]
    assert read == names[::-1][: broken + 1]


def test_a_checkpoint_that_the_disk_does_not_give_out_is_not_passed_over(tmp_path: Path) -> None:
    """An older model would be scored in its place, as by ms-swift's recipe, or gone on from on one rank."""
    for name in ("checkpoint-8", "checkpoint-90"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-90" / "trainer_state.json").mkdir()
    with pytest.raises(IsADirectoryError):
        checkpoints.newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("steps", "callbacks", "is_whole"),
    [(4, [], True), (2, [], False), (2, [EarlyStoppingCallback()], True)],
)
def test_llama_factorys_training_ends_with_its_last_step(
    tmp_path: Path, steps: int, callbacks: list[Any], is_whole: bool
) -> None:
    """What comes behind it would save the model of a training that a signal has stopped."""
    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=steps, max_steps=4),
        callback_handler=SimpleNamespace(callbacks=callbacks),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        args=SimpleNamespace(output_dir=tmp_path),
    )
    with (
        nullcontext() if is_whole else pytest.raises(StoppedError, match=r"expected 4 steps, got 2, .* anew$")
    ):
        assert _to_the_end(trainer, lambda: "its result") == "its result"
