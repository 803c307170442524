"""Which checkpoint a training goes on from, and what is read to find it."""

from pathlib import Path

import pytest

from cotbal.integrations import checkpoints


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
