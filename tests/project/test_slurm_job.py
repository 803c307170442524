"""What a job does on its node, and what sbatch and squeue are told and tell, without a cluster."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cotbal.project.slurm import task
from cotbal.project.slurm.queue import SlurmError, check_commands, queued_jobs, recorded_state
from cotbal.project.slurm.submission import sbatch_options, submit, was_submitted_whole
from cotbal.project.slurm.task import Task, read_failure
from cotbal.project.slurm.tickets import Ticket, read_ticket, slurm_folder, write_ticket
from cotbal.runs.execution import Job
from cotbal.runs.processes import CommandError, alive
from cotbal.runs.store import Record, Store
from tests.cli.watching import wait_until
from tests.project.slurm_double import resources, spec


def message(out, **changes):
    whole = {"out": str(out), "versions": {}, "key": "k", "function": "m:f", "settings": {}, "needs": {}}
    return {**whole, "context": {}, **changes}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Runs the task in this process; the run itself is replaced."""
    ran = []
    monkeypatch.setattr(task.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(task, "TELLING_SECONDS", 0.0)
    write_ticket(tmp_path, Ticket("k", "s1", None))

    def job(submission="s1", error=None, seconds=3600.0, **changes):
        def run_job(*arguments):
            ran.append(submission)
            if error is not None:
                raise error

        monkeypatch.setattr(task, "run_job", run_job)
        made = Task(submission, seconds)
        made(message(tmp_path, **changes))
        return made

    job.ran = ran
    return job


def failure(out):
    return read_failure(Store(out).folder("k"), "s1")


def test_job_does_its_own_run_and_no_other(job, tmp_path):
    job()
    assert job.ran == ["s1"]
    job("s0")
    (slurm_folder(tmp_path) / "tickets" / "k.json").unlink()
    job()
    assert job.ran == ["s1"]
    assert failure(tmp_path) is None


def test_job_that_slurm_starts_again_after_its_run_has_finished_does_nothing(job, tmp_path):
    store = Store(tmp_path, {})
    store.folder("k").mkdir(parents=True)
    store.write(Record("k", {}, 0.0, 1.0, 1.0), function="m:f", settings={})
    job()
    assert job.ran == []
    # What it was made from has been done again since.
    job(made_from={"n": 5.0})
    assert job.ran == ["s1"]


@pytest.mark.parametrize(
    ("error", "text"),
    [(CommandError("exit status 3\nits log"), "exit status 3\nits log"), (ValueError("odd"), "odd")],
)
def test_failure_is_left_for_the_driver(job, tmp_path, error, text):
    job(error=error)
    assert text in failure(tmp_path).error
    assert not failure(tmp_path).out_of_time
    assert read_failure(Store(tmp_path).folder("k"), "s2") is None


def test_job_that_is_told_to_leave_leaves_no_failure(job, tmp_path):
    with pytest.raises(SystemExit):
        job(error=SystemExit(143))
    assert failure(tmp_path) is None


def test_job_out_of_time_says_so(job, tmp_path):
    from submitit.core.utils import UncompletedJobError

    job(error=UncompletedJobError("timed-out too many times"))
    assert failure(tmp_path).out_of_time


def test_warned_job_goes_on_where_that_is_of_use(job, tmp_path):
    resumed = message(tmp_path, context={"resume": True})
    assert job(seconds=60.0).checkpoint(message(tmp_path)) is None
    assert job(seconds=60.0).checkpoint(resumed).args == (resumed,)
    # Warned long before the end: pre-empted.
    assert job(seconds=3600.0).checkpoint(message(tmp_path)).args == (message(tmp_path),)


@pytest.mark.parametrize("told", [True, False])
def test_time_of_a_job_is_over_also_where_a_slow_start_took_a_part_of_it(job, tmp_path, monkeypatch, told):
    now = time.time()
    # Of its day Slurm has counted four minutes before the first line of this ran.
    if told:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now + 86400 - 240)))
    warned = job(seconds=86400.0)
    monkeypatch.setattr(task.time, "time", lambda: now + 86400 - 240 - 100)
    assert warned.checkpoint(message(tmp_path)) is None
    monkeypatch.setattr(task.time, "time", lambda: now + 43200)
    assert warned.checkpoint(message(tmp_path)) is not None


def test_cancelled_job_ends_its_command_and_writes_nothing(tmp_path):
    write_ticket(tmp_path, Ticket("k", "s1", None))
    context = {
        "out": str(tmp_path),
        "folder": str(tmp_path),
        "python_path": None,
        "resume": False,
        "parts": [],
    }
    weights = {"a": 1.0, "b": 1.0}
    settings = {"command": "sleep 600; false", "format": "json", "weights": weights, "data": []}
    told = message(
        tmp_path,
        function="cotbal.project.job:train",
        settings=settings,
        context=context | {"samples": 1, "steps": 1},
    )
    imports = "import json, sys; from cotbal.project.slurm.task import Task"
    code = f"{imports}; Task('s1', 1.0)(json.loads(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(told)])
    folder = Store(tmp_path).folder("k")
    wait_until(lambda: len(alive(folder)) >= 2, process)
    # As Slurm does it: all at once, so the command may be gone before the job is told.
    for pid in alive(folder):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert alive(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "weights.json"]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts a shell script in place of each command given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def commands(**scripts):
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    return commands


def jobs(*names):
    return [Job(name, spec(name), f"key-{name}", {}) for name in names]


def test_submission_is_one_array_with_the_file_s_options_and_tickets(commands, tmp_path):
    kept = tmp_path / "kept"
    commands(sbatch=f"cp $1 {kept}; echo Submitted batch job 7", srun="false")
    asked = {"partition": "gpu", "account": "lab", "cpus": 8, "memory_gb": 1.5, "hours": 1.01}
    asked["options"] = {"qos": "high", "exclusive": True, "oversubscribe": False, "no_kill": True}
    out = tmp_path / "out"
    tickets = submit(jobs("a", "b"), Store(out, {}), resources(**asked))
    assert [(ticket.job, ticket.place) for ticket in tickets] == [("7_0", 0), ("7_1", 1)]
    assert read_ticket(out, "key-b") == tickets[1]
    assert was_submitted_whole(out, "7_1")
    text = kept.read_text()
    options = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert options >= {
        "array=0-1%2",
        "time=61",
        "partition=gpu",
        "account=lab",
        "cpus-per-task=8",
        "mem=1536M",
    }
    assert options >= {"qos=high", "exclusive", "no-kill", "requeue", "signal=B:USR2@90", "nodes=1"}
    assert not any(option.startswith(("oversubscribe", "wckey", "gpus")) for option in options)
    assert "srun" not in text
    assert text.rstrip().splitlines()[-1].startswith(f"exec {sys.executable} ")
    (single,) = submit(jobs("c"), Store(out, {}), resources())
    assert (single.job, single.place) == ("7", None)


def test_what_the_file_states_holds_over_the_environment_and_a_job_around_the_driver(
    commands, tmp_path, monkeypatch
):
    kept = tmp_path / "kept"
    commands(sbatch=f"env > {kept}; echo Submitted batch job 7", srun="false")
    for name in ("ACCOUNT", "TIMELIMIT", "MEM_PER_CPU", "SIGNAL", "JOB_NAME", "WAIT", "QOS", "GRES"):
        monkeypatch.setenv(f"SBATCH_{name}", "of the user")
    # In an array of drivers: a job that is none of an array would take this for its own place.
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_NTASKS", "SLURM_CONF", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "5")
    before = dict(os.environ)
    submit(jobs("a"), Store(tmp_path / "out", {}), resources(account="lab", memory_gb=1.5))
    seen = {line.partition("=")[0] for line in kept.read_text().splitlines()}
    assert {name for name in seen if name.startswith(("SBATCH_", "SLURM_"))} == {
        *("SBATCH_QOS", "SBATCH_GRES", "SLURM_CONF", "SLURM_CLUSTERS")
    }
    assert dict(os.environ) == before


def test_gpus_are_asked_for_by_number_or_as_the_options_say():
    eight = resources().model_copy(update={"gpus_per_run": 8})
    assert sbatch_options(eight)["gpus_per_node"] == 8
    named = resources(options={"gres": "gpu:a100:8"}).model_copy(update={"gpus_per_run": 8})
    assert sbatch_options(named)["gpus_per_node"] is None
    assert sbatch_options(named)["gres"] == "gpu:a100:8"


def test_refusal_of_sbatch_is_its_own_words_and_leaves_no_ticket(commands, tmp_path, capfd):
    commands(sbatch="echo sbatch: error: Invalid account >&2; exit 1", srun="false")
    with pytest.raises(SlurmError, match=r"^sbatch: error: Invalid account$"):
        submit(jobs("a", "b"), Store(tmp_path / "out", {}), resources())
    assert read_ticket(tmp_path / "out", "key-a") is None
    assert capfd.readouterr().err == ""


def test_queue_is_read_and_a_squeue_that_fails_is_no_empty_queue(commands):
    lines = ["7_0|RUNNING|None|cotbal-x", "7_1|PENDING|Priority|cotbal-x", "8|PENDING|JobHeldUser|a|b"]
    commands(squeue=f"printf '%s\\n' '{lines[0]}' '{lines[1]}' '{lines[2]}'")
    queue = queued_jobs()
    assert [(job.job, job.active, job.waiting, job.stuck) for job in queue.values()] == [
        ("7_0", True, False, False),
        ("7_1", True, True, False),
        ("8", True, True, True),
    ]
    assert queue["8"].name == "a|b"
    # Of several clusters, and with a name that is no UTF-8.
    commands(squeue=f"printf 'CLUSTER: one\\n%s\\n\\n9|RUNNING|None|\\351\\n' '{lines[0]}'")
    assert list(queued_jobs()) == ["7_0", "9"]
    commands(squeue="echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(SlurmError, match="squeue: slurm_load_jobs error: Unable to contact"):
        queued_jobs()


def test_queue_is_whole_whatever_the_user_likes_to_see(commands, monkeypatch):
    commands(squeue="test -z \"$SQUEUE_PARTITION\" && echo '7|RUNNING|None|cotbal-x'")
    monkeypatch.setenv("SQUEUE_PARTITION", "debug")
    assert list(queued_jobs()) == ["7"]


def test_accounting_tells_an_end_where_there_is_any(commands):
    commands(sacct="echo 'CANCELLED by 1000|'")
    assert recorded_state("7_0") == "CANCELLED"
    commands(sacct="echo Slurm accounting storage is disabled >&2; exit 1")
    assert recorded_state("7_0") is None


def test_missing_commands_are_named(commands, monkeypatch):
    monkeypatch.setenv("PATH", str(commands(sbatch="", srun="")))
    with pytest.raises(SlurmError, match="no squeue, scancel, scontrol; run this where jobs are submitted"):
        check_commands()
