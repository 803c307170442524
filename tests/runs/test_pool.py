"""Real worker processes. Each imports torch, so the tests share few plans."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from cotbal.runs import processes
from cotbal.runs.execution import Execution
from cotbal.runs.plan import Plan
from cotbal.runs.pool import MAX_RETRIES, Crew, Pool, RunError, in_a_line, run_plan, work_on
from cotbal.runs.store import Record, Store, run_key
from cotbal.runs.worker_process import ONE_THREAD, default_workers
from tests.runs.fake_runs import Notes, alive, small_plan, spec, starts


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(journal):
    return not any(alive(pid) for _, pid in starts(journal))


def test_plan_runs_in_order_on_kept_alive_workers_and_then_only_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    journal, notes = tmp_path / "journal", Notes()
    plan = small_plan(journal, nap=0.05)
    left_by_a_kill = Store(tmp_path).folder(run_key(plan["s/base"])) / "half.bin"
    left_by_a_kill.parent.mkdir(parents=True)
    left_by_a_kill.write_bytes(b"half")
    records = run_plan(plan, Store(tmp_path), notes, workers=2)
    assert records["s/final"].result == {
        "value": "s/probe0+s/probe1+s/probe2",
        "left": {"base": "s/base"},
        "threads": "1",
        # So Ctrl-C on a terminal reaches the driver alone.
        "own_session": True,
    }
    order = [name for name, _ in starts(journal)]
    # The two started together may note it in either order.
    assert order[0] == "s/base"
    assert set(order[1:3]) == {"s/probe2", "s/probe1"}
    assert order[3] == "s/probe0"
    assert sorted(order) == sorted(plan)
    assert len({pid for _, pid in starts(journal)}) == 2
    assert notes.about("opened") == ["0/7 on 2"]
    assert sorted(notes.about("finished")) == sorted(plan)
    assert set(notes.about("advanced")) >= {"s/final", "s/beside"}
    assert gone(journal)
    assert not left_by_a_kill.exists()

    again = Notes()
    assert run_plan(small_plan(journal, nap=0.05), Store(tmp_path), again, workers=2) == records
    assert len(starts(journal)) == len(plan)
    assert again.told == [("opened", "7/7 on 1")]


def test_run_whose_worker_dies_is_tried_again_on_a_fresh_worker(tmp_path):
    journal, notes = tmp_path / "journal", Notes()
    plan = Plan([spec("a", journal, kills=MAX_RETRIES)])
    assert run_plan(plan, Store(tmp_path), notes, workers=1)["a"].result["value"] == "a"
    assert len({pid for _, pid in starts(journal, "a")}) == MAX_RETRIES + 1
    assert notes.about("lost") == ["a: its worker process died (killed by SIGKILL)"] * MAX_RETRIES


def test_fork_that_a_run_leaves_behind_holds_back_neither_a_death_nor_the_end(tmp_path):
    plan, began = Plan([spec("a", tmp_path / "journal", kills=1, forks=True)]), time.monotonic()
    assert list(run_plan(plan, Store(tmp_path), Notes(), workers=1)) == ["a"]
    assert time.monotonic() - began < 30.0


def test_thread_that_a_run_leaves_behind_is_not_listened_to(tmp_path):
    journal = tmp_path / "journal"
    plan = Plan([spec("a", journal, goes_on=True), spec("b", journal, steps=3, nap=0.3)])
    assert set(run_plan(plan, Store(tmp_path), Notes(), workers=2)) == {"a", "b"}


def test_run_that_kills_every_worker_ends_with_its_log(tmp_path):
    journal = tmp_path / "journal"
    plan = Plan([spec("a", journal, kills=99, leaves=True)])
    told = r"'a': its worker process died 3 times.*SIGKILL.*try fewer resources.slots\)[\s\S]*this is a"
    with pytest.raises(RunError, match=told):
        work_on(plan, Store(tmp_path), Notes(), Crew([ONE_THREAD], number="resources.slots"))
    assert len(starts(journal)) == MAX_RETRIES + 1
    assert processes.alive(Store(tmp_path).folder(run_key(plan["a"]))) == []


def test_worker_that_dies_once_its_result_is_written_has_finished_its_run(tmp_path):
    class Dead:
        environment, stop = {}, staticmethod(lambda: -signal.SIGKILL)

    execution, notes = Execution(Plan([spec("a", tmp_path / "journal")]), Store(tmp_path)), Notes()
    execution.take_up()
    worker = Dead()
    worker.job = execution.jobs["a"]
    execution.store.folder(worker.job.key).mkdir(parents=True)
    execution.store.write(Record(worker.job.key, {}, 0.0, 1.0, 1.0), function="f", settings={})
    pool = Pool(execution, notes, Crew([{}]), [worker])
    pool._handle(worker, None)
    assert notes.told == [("finished", "a")]
    assert execution.over


def test_reason_in_a_line_has_how_it_ended():
    log = "the command ended with exit status 1; the end of log.txt:\n$ python x\nno picture\n"
    assert in_a_line(log) == "the command ended with exit status 1; the end of log.txt: no picture"
    assert in_a_line("Traceback (most recent call last):\n  File 'a'\nKeyError: 3\n") == "KeyError: 3"
    assert in_a_line("wrote no score") == "wrote no score"
    assert in_a_line("") == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"raises": "no such corpus"}, "RuntimeError: no such corpus"), ({"exits": True}, "SystemExit: 3")],
)
def test_run_that_raises_ends_with_its_traceback_and_is_not_tried_again(tmp_path, settings, message):
    journal = tmp_path / "journal"
    plan = Plan([spec("a", journal, steps=2), spec("b", journal, **settings)])
    with pytest.raises(RunError, match=rf"run 'b' failed[\s\S]*fake_runs.py[\s\S]*{message}"):
        run_plan(plan, Store(tmp_path), Notes(), workers=1)
    assert [name for name, _ in starts(journal)] == ["a", "b"]
    assert gone(journal)
    assert list(run_plan(Plan([spec("a", journal, steps=2)]), Store(tmp_path), Notes(), workers=1)) == ["a"]
    assert len(starts(journal)) == 2


@pytest.mark.parametrize(
    ("cpu", "memory", "count"),
    [
        ("max 100000", "max", 8),
        ("250000 100000", "max", 2),
        ("50000 100000", "max", 1),
        ("max 100000", str(3 << 30), 3),
        ("400000 100000", "1000000", 1),
    ],
)
def test_default_workers_fit_the_container(tmp_path, monkeypatch, cpu, memory, count):
    (tmp_path / "cpu.max").write_text(cpu + "\n")
    (tmp_path / "memory.max").write_text(memory + "\n")
    monkeypatch.setattr("cotbal.runs.worker_process.CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 24}.get)
    assert default_workers() == count


def test_default_workers_fit_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("cotbal.runs.worker_process.CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 6})
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 24}.get)
    assert default_workers() == 3


def test_no_worker_at_all(tmp_path):
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        run_plan(Plan([]), Store(tmp_path), Notes(), workers=0)


@pytest.fixture
def driver(tmp_path):
    def start(nap):
        arguments = [sys.executable, "-m", "tests.runs.fake_runs", str(tmp_path), str(nap)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_driver_leaves_no_orphan_and_loses_the_running_runs_only(tmp_path, driver, number):
    journal = tmp_path / "journal.txt"
    first = driver(0.15)
    wait_until(lambda: len(starts(journal)) >= 3)
    first.send_signal(number)
    first.communicate()
    wait_until(lambda: gone(journal), seconds=60)
    finished = sorted(path.parent.name for path in tmp_path.glob("runs/*/result.json"))
    assert finished
    lost = len(starts(journal)) - len(finished)
    # Of two workers; none where the signal came between two runs.
    assert 0 <= lost <= 2
    plan, notes = small_plan(journal, 0.15), Notes()
    assert run_plan(plan, Store(tmp_path), notes, workers=2)["s/final"].result["left"] == {"base": "s/base"}
    assert len(starts(journal)) == len(plan) + lost
    # Fewer workers than two where fewer runs were left.
    (opened,) = notes.about("opened")
    assert opened.startswith(f"{len(finished)}/7 on ")


def test_worker_in_a_long_step_does_not_outlive_its_killed_driver(tmp_path, driver):
    journal = tmp_path / "journal.txt"
    first = driver(300)
    wait_until(lambda: starts(journal))
    first.kill()
    first.communicate()
    wait_until(lambda: gone(journal), seconds=60)


def test_of_two_drivers_at_once_one_works_and_the_other_says_who(tmp_path, driver):
    journal = tmp_path / "journal.txt"
    both = [driver(0.05), driver(0.05)]
    outcomes = [process.communicate()[1] for process in both]
    loser = both[0] if both[0].returncode else both[1]
    winner = both[1] if loser is both[0] else both[0]
    assert winner.returncode == 0
    assert f"in use by process {winner.pid}" in outcomes[both.index(loser)]
    assert len(starts(journal)) == len(small_plan(journal))


def test_disk_that_takes_no_result_stops_with_the_reason_and_leaves_nothing_half(tmp_path):
    journal = tmp_path / "journal"
    plan = Plan([spec("a", journal, value="x" * 100, disk=200)])
    with pytest.raises(RunError, match=rf"failed in [^\n]*:\nOSError: .*{os.strerror(errno.EFBIG)}"):
        run_plan(plan, Store(tmp_path), Notes(), workers=1)
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == ["left.txt", "log.txt"]


def test_crew_that_keeps_going_tries_again_gives_up_and_does_the_rest(tmp_path):
    journal, notes = tmp_path / "journal", Notes()
    plan = Plan(
        [
            spec("bad", journal, steps=3, raises="no such corpus"),
            spec("after", journal, ("bad",)),
            spec("good", journal, steps=2),
        ]
    )
    crew = Crew([{"COLOUR": "red"}], retries=1, keep_going=True)
    execution = work_on(plan, Store(tmp_path), notes, crew)
    assert list(execution.records) == ["good"]
    assert list(execution.failures) == ["bad"]
    assert "no such corpus" in execution.failures["bad"]
    assert [name for name, _ in starts(journal)] == ["bad", "bad", "good"]
    assert notes.about("lost") == ["bad: RuntimeError: no such corpus"]
    assert len(notes.about("failed")) == 1


def test_each_worker_has_its_own_environment_also_after_a_death(tmp_path):
    journal = tmp_path / "journal"
    # The second is still at work when the first one's worker has died.
    plan = Plan([spec("a", journal, kills=1), spec("b", journal, steps=4, nap=1.0)])
    crew = Crew([{"OMP_NUM_THREADS": "3"}, {"OMP_NUM_THREADS": "4"}])
    records = work_on(plan, Store(tmp_path), Notes(), crew).records
    assert {record.result["threads"] for record in records.values()} == {"3", "4"}
