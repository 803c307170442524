"""The four per-task curves are in TensorBoard's event file, with the numbers of the run."""

from pathlib import Path

import pytest

from cotbal.balancing import DWA
from tests.integrations.huggingface.curves import KEYS, TASKS, draw, read, train

# Event files hold float32.
ROUNDING = 1e-6


def test_the_event_file_holds_the_four_curves_of_each_task(tmp_path: Path) -> None:
    trainer = train(tmp_path, steps=8, weighting=DWA(window=1), logging_steps=2)
    curves = read(tmp_path)
    for key in KEYS:
        for task in TASKS:
            logged = {
                entry["step"]: entry[f"{key}/{task}"]
                for entry in trainer.state.log_history
                if f"{key}/{task}" in entry
            }
            assert dict(curves[f"train/{key}/{task}"]) == pytest.approx(logged, rel=ROUNDING)
            assert list(logged) == [2, 4, 6, 8]
    weights = [[value for _, value in curves[f"train/task_weight/{task}"]] for task in TASKS]
    for point in zip(*weights, strict=True):
        assert sum(point) == pytest.approx(len(TASKS), rel=ROUNDING)
    # DWA(window=1) weighs from the third step on.
    assert [points[0] for points in weights] == [1.0] * 3
    assert all(points[1] != 1.0 for points in weights)
    draw(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
