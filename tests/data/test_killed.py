"""A run that is killed leaves no half file under a name that is read, and Ctrl-C ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotbal.data.gqa import prepare_gqa
from cotbal.data.processes import processes
from tests.cli.watching import children, wait_until
from tests.data import publishers
from tests.data.check.records import record, write
from tests.data.reading import everything, inputs, target
from tests.runs.fake_runs import alive

SIZE = 30_000
ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
RUN = """
import sys
from pathlib import Path
from cotbal.data.gqa import prepare_gqa
from tests.data.reading import inputs, target
print("go", flush=True)
prepare_gqa(Path("gqa"), target(Path("out")), inputs())
"""


# Each process imports torch: seconds.
@pytest.mark.full
def test_killed_run_leaves_whole_files_or_none(tmp_path):
    publishers.gqa(tmp_path / "gqa", "train", [(f"{n}", f"{n // 3}", "Who?", "me") for n in range(SIZE)])
    start = time.perf_counter()
    prepare_gqa(tmp_path / "gqa", target(tmp_path / "whole"), inputs())
    seconds = time.perf_counter() - start
    half = 0
    for share in (0.3, 0.7, 0.9):
        process = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(share * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        folder = tmp_path / "out" / "GQA"
        half += not (folder / "prepared.json").exists()
        if (folder / "train.json").exists():
            assert len(json.loads((folder / "train.json").read_text())) == SIZE // 3
    assert half, "no kill came in time"
    prepare_gqa(tmp_path / "gqa", target(tmp_path / "out"), inputs())
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


MEND = """
import sys
from cotbal.cli import main
print("go", flush=True)
options = ["--records-only", "--fix", "out", "--html", "out/check.html"]
sys.argv = ["cotbal", "data", "check", "train.json", *options]
main()
"""


@pytest.mark.full
def test_killed_check_leaves_whole_files_or_none(tmp_path):
    records = [record("a?", f"b {n}", id=n) | ({"image": "1.jpg"} if n % 2 else {}) for n in range(SIZE)]
    for each in records[1::2]:
        each["conversations"][0]["value"] = "no token?"
    write(tmp_path / "train.json", records)
    options = {"cwd": tmp_path, "env": ENV, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    start = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", MEND], **options).returncode == 1
    seconds = time.perf_counter() - start
    whole = everything(tmp_path / "out")
    assert set(whole) == {"check.html", "changes.jsonl", "fixed.json", "train.json"}
    unfinished = 0
    for share in (0.5, 0.7, 0.8, 0.9):
        (tmp_path / "out").rename(tmp_path / f"before {share}")
        process = subprocess.Popen([sys.executable, "-c", MEND], **options)
        time.sleep(share * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (tmp_path / "out").mkdir(exist_ok=True)
        left = {
            name: data
            for name, data in everything(tmp_path / "out").items()
            if not name.endswith((".tmp", ".unfinished"))
        }
        assert left == {name: whole[name] for name in left}
        unfinished += "fixed.json" not in left
    assert unfinished, "no kill came in time"
    assert subprocess.run([sys.executable, "-c", MEND], **options).returncode == 1
    assert everything(tmp_path / "out") == whole


def works(pid):
    """Whether the process has read the modules that it works with."""
    return "_sqlite3" in Path(f"/proc/{pid}/maps").read_text()


# The check and its processes import torch: seconds.
@pytest.mark.full
def test_processes_of_a_killed_check_end_with_it(tmp_path):
    # A pipe: the check waits for records until it is killed.
    os.mkfifo(tmp_path / "train.jsonl")
    options = ["--records-only", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cotbal", "data", "check", "train.jsonl", *options], cwd=tmp_path, env=ENV
    )
    found = []
    try:
        with (tmp_path / "train.jsonl").open("w") as records:
            records.writelines(json.dumps(record("a?", f"b {n}", id=n)) + "\n" for n in range(9000))
            records.flush()
            wait_until(lambda: sum(map(works, children(process.pid))) == 2, process, seconds=60)
            found = children(process.pid)
            process.kill()
            process.wait()
            wait_until(lambda: not any(map(alive, found)), seconds=5)
    finally:
        for pid in filter(alive, found):
            os.kill(pid, signal.SIGKILL)
        process.kill()


def test_ctrl_c_does_not_end_a_process_amid_a_message():
    """The terminal sends it to all of them; of those left without their lock the check waited for ever."""
    with processes(1, dict) as pool:
        assert pool.submit(signal.raise_signal, signal.SIGINT).exception(timeout=60) is None
