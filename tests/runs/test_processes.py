import signal
import subprocess
import sys
import time
from pathlib import Path

from cotbal.runs import processes
from cotbal.runs.plan import Plan
from cotbal.runs.pool import run_plan
from cotbal.runs.store import Store, locked
from tests.runs.fake_runs import Notes, spec

SLEEPER = f"{sys.executable} -c 'import time; print(1, flush=True); time.sleep(60)'"


def wait_for(count, folder):
    end = time.monotonic() + 20
    while len(processes.alive(folder)) != count:
        assert time.monotonic() < end, processes.alive(folder)
        time.sleep(0.02)


def test_all_that_a_command_has_started_is_ended_whatever_session_it_is_in(tmp_path):
    mine, others = tmp_path / "mine", tmp_path / "others"
    # The shell, a child of it, and one in a session of its own that outlives the shell.
    command = processes.start(f"setsid {SLEEPER} & {SLEEPER} & sleep 60", mine, {})
    other = processes.start("sleep 60", others, {})
    try:
        wait_for(4, mine)
        command.kill()
        command.wait()
        assert len(processes.alive(mine)) == 3
        processes.end(mine)
        assert processes.alive(mine) == []
        assert other.poll() is None
    finally:
        processes.end(others)
        other.wait()


def test_a_start_ends_what_was_left_of_runs_that_it_no_longer_has(tmp_path):
    """Driver and worker were killed at one moment, and then the file was changed."""
    left = processes.start("sleep 60", tmp_path / "out" / "runs" / "old", {})
    beside = processes.start("sleep 60", tmp_path / "out" / "runs-of-another" / "old", {})
    try:
        with locked(tmp_path / "out"):
            run_plan(Plan([spec("new", tmp_path / "journal")]), Store(tmp_path / "out"), Notes(), workers=1)
        assert left.wait(5) == -signal.SIGTERM
        assert beside.poll() is None
    finally:
        for command in (left, beside):
            command.kill()
            command.wait()
            processes.end(tmp_path, below=True)


def test_process_that_does_not_heed_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    stubborn = processes.start("trap '' TERM; while true; do sleep 0.05; done", tmp_path, {})
    time.sleep(0.3)
    processes.end(tmp_path)
    assert stubborn.wait() == -signal.SIGKILL


def test_command_runs_in_its_folder_with_its_environment_and_no_input(tmp_path):
    (tmp_path / "here").mkdir()
    command = 'cat > input; echo "$COLOUR" > colour'
    assert processes.start(command, tmp_path, {"COLOUR": "red"}, tmp_path / "here").wait() == 0
    assert (tmp_path / "here" / "colour").read_text() == "red\n"
    assert (tmp_path / "here" / "input").read_text() == ""


def test_nothing_starts_after_the_end_for_good(tmp_path):
    code = (
        "import sys, threading; from pathlib import Path; from cotbal.runs import processes\n"
        "folder = Path(sys.argv[1]); processes.start('sleep 60', folder, {})\n"
        "processes.end_for_good(folder)\n"
        "late = threading.Thread(target=processes.start, args=('sleep 60', folder, {}), daemon=True)\n"
        "late.start(); late.join(0.3); print(processes.alive(folder))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_program_that_is_being_loaded_is_found(tmp_path, monkeypatch):
    """Its environment is empty for a moment; `end` would take it for ended."""
    for _ in range(200):
        started = processes.start("sleep 60", tmp_path, {})
        # All of /proc would take longer than the moment, mostly.
        monkeypatch.setattr(processes, "PROC", Only(started.pid))
        found = processes.alive(tmp_path)
        started.kill()
        started.wait()
        assert found == [started.pid]


class Only:
    """Of /proc, one process."""

    def __init__(self, pid):
        self.pid = pid

    def glob(self, pattern):
        return [Path(pattern.replace("[0-9]*", f"/proc/{self.pid}"))]
