"""A disk really full in the middle of `cotbal run`: what is finished stays, and the reason is told."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.cli.commands import call
from tests.project.toy import starts, write

# In a mount namespace of its own, so that nobody else sees the small disk, and no rights are needed.
SCRIPT = """
mount -t tmpfs -o size={size} none out || exit 77
{run} >first.out 2>first.err; echo $? >first.rc
ls out/runs/*/result.json >kept
mount -o remount,size=64m out || exit 77
{run} >second.out 2>second.err; echo $? >second.rc
cp out/scores.csv out/weights.json .
"""


@pytest.mark.parametrize("size", ["160k", pytest.param("96k", marks=pytest.mark.full)])
def test_full_disk_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path, size):
    write(tmp_path)
    (tmp_path / "out").mkdir()
    run = f"{sys.executable} -m cotbal run toy.yaml --json"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT.format(size=size, run=run)]
    if shutil.which("unshare") is None:
        pytest.skip("needs util-linux")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")

    notes = (tmp_path / "first.err").read_text()
    assert (tmp_path / "first.rc").read_text() != "0\n"
    assert "No space left on device" in notes
    kept = len((tmp_path / "kept").read_text().splitlines())
    assert 0 < kept < 16
    assert (tmp_path / "second.rc").read_text() == "0\n", (tmp_path / "second.err").read_text()
    assert json.loads((tmp_path / "second.out").read_text())["complete"] is True
    assert (tmp_path / "second.err").read_text().startswith(f"continuing: {kept} of 16 runs are finished")

    unbroken = tmp_path / "unbroken"
    assert call("run", write(unbroken)).exit_code == 0
    assert set(starts(unbroken).values()) == {1}
    for name in ("scores.csv", "weights.json"):
        assert (tmp_path / name).read_text() == (unbroken / "out" / name).read_text()
