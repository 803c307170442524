"""`cotbal run` and `status` with executor: slurm, as far as no cluster is needed."""

import json
import sys

import pytest

from cotbal.project.slurm.tickets import Ticket, job_name, write_ticket
from cotbal.runs.store import locked
from tests.cli.commands import call
from tests.project.toy import starts, write

SLURM = {"hours": 2.0, "partition": "gpu", "options": {"qos": "high"}}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, resources={"executor": "slurm", "gpus_per_run": 4, "slurm": SLURM})


def test_dry_run_shows_what_each_job_asks_for(path, tmp_path):
    shown = call("run", path, "--dry-run")
    assert shown.exit_code == 0
    line = "Each run is a Slurm job: sbatch --time=120 --partition=gpu --gpus-per-node=4 --qos=high"
    assert line in shown.stdout.splitlines()
    assert not (tmp_path / "out" / "slurm").exists()


def test_no_submitit_and_no_slurm_are_one_line_each(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = call("run", path)
    assert result.exit_code == 2
    assert "cotbal: executor: slurm expects Slurm's sbatch, squeue, scancel, scontrol, srun" in result.stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = call("run", path)
    assert result.exit_code == 2
    assert result.stderr == 'cotbal: submitit is not installed; pip install "path/to/cotbal[slurm]"\n'
    assert not starts(tmp_path)


def tickets(out, path):
    """A running and two waiting jobs, one of them unknown to Slurm by now."""
    call("plan", path)
    runs = json.loads((out / "plan.json").read_text())["runs"]
    keys = {run["name"]: run["key"] for run in runs}
    for place, name in enumerate(("mini", "probe a", "probe b")):
        write_ticket(out, Ticket(keys[name], "s1", place, f"7_{place}"))
    return f"7_0|RUNNING|None|{job_name(out, 's1')}\n7_1|PENDING|Priority|{job_name(out, 's1')}"


def test_status_names_jobs_with_their_ids_also_without_a_driver(path, tmp_path, monkeypatch):
    queue = tickets(tmp_path / "out", path)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\necho '{queue}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    shown = {run["name"]: run for run in json.loads(call("status", path, "--json").stdout)["runs"]}
    assert [shown[name].get("state") for name in ("mini", "probe a", "probe b")] == [
        "running",
        "queued",
        "waiting",
    ]
    assert (shown["mini"]["job"], shown["probe a"]["job_state"]) == ("7_0", "PENDING (Priority)")
    assert "job" not in shown["probe b"]
    text = call("status", path).stdout
    assert "probe a  job 7_1 PENDING (Priority)" in text
    assert "1 running, 14 waiting, 1 queued" in text
    refused = call("run", write(tmp_path))
    assert refused.exit_code == 2
    assert "has jobs in the Slurm queue; wait for them with executor: slurm, or scancel 7" in refused.stderr
    assert not starts(tmp_path)


def test_status_says_that_slurm_does_not_answer_and_what_the_driver_has_noted(path, tmp_path, monkeypatch):
    tickets(tmp_path / "out", path)
    note = {"mini": {"state": "queued", "job": "7_0"}}
    (tmp_path / "out" / "state.json").write_text(json.dumps({"schema_version": 1, "driver": 1, "runs": note}))
    monkeypatch.setenv("PATH", str(tmp_path))
    with locked(tmp_path / "out"):
        result = call("status", path)
    assert "the queue is not known: squeue: " in result.stderr
    assert "mini  job 7_0" in result.stdout
    assert "1 queued, 15 waiting" in result.stdout
    assert "1 stopped, 15 waiting" in call("status", path).stdout
