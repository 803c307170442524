import os
import subprocess
import sys
from pathlib import Path

import pytest


# A report of 64 tasks with 200 items each: seconds.
@pytest.mark.full
def test_nothing_is_left_behind_and_nothing_of_the_users_is_removed(tmp_path):
    (tmp_path / "estimate-scale").mkdir()
    (tmp_path / "estimate-scale" / "mine").touch()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.estimate_scale", "4096"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert [line.split()[:2] for line in run.stdout.splitlines()[1:]] == [
        ["0", "empty"],
        ["4,096", "plan"],
        ["4,096", "again"],
        ["64", "report"],
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["estimate-scale", "mine"]
