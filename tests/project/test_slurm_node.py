"""An estimate on a real Slurm of one node, which is installed where it is missing and that is asked for."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.demo.files import write_base, write_world
from cotbal.demo.profiles import PROFILES
from cotbal.project import recipe_files
from tests.cli.watching import wait_until
from tests.project.slurm_node import Node, install, missing
from tests.project.toy import content, starts, write

# A machine of CI is made for the run; no other gets packages unasked.
IN_CI = os.environ.get("CI") == "true"
ASKED = os.environ.get("COTBAL_TEST_SLURM") == "1"
pytestmark = pytest.mark.skipif(
    bool(missing()) and not (IN_CI or ASKED), reason="COTBAL_TEST_SLURM=1 lets it install Slurm"
)

SLURM = {"executor": "slurm", "gpus_per_run": 0, "slurm": {"hours": 0.5, "cpus": 1, "memory_gb": 0.25}}
TRAININGS = {"mini", "probe a", "probe b"}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    try:
        install()
    except RuntimeError as error:
        if ASKED:
            raise
        pytest.skip(str(error))
    node = Node(tmp_path_factory.mktemp("slurm"))
    try:
        node.start()
        yield node
    finally:
        node.stop()


def toy(folder, **resources):
    tasks = {name: task for name, task in content(folder)["tasks"].items() if name != "c"}
    return write(folder, tasks=tasks, **resources)


def script(folder, **how):
    (folder / "script").write_text(json.dumps(how))


@pytest.fixture
def cotbal(node):
    """Starts the command line on the cluster; what still runs at the end is killed, its jobs too."""
    started = []

    def cotbal(*arguments):
        command = [sys.executable, "-m", "cotbal", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=node.environment, text=True, **pipes))
        return started[-1]

    yield cotbal
    for process in started:
        process.kill()
        process.communicate()
    node.cancel()


def test_kill_of_the_driver_a_cancelled_and_a_requeued_job_change_no_number(node, cotbal, tmp_path):
    path, folder = toy(tmp_path / "slurm", resources=SLURM), tmp_path / "slurm"
    script(folder, nap=600)
    killed = cotbal("run", path)
    # One of the three waits: the node has two processors.
    wait_until(lambda: sum(starts(folder).values()) == 2, killed, seconds=300)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    shown, _ = cotbal("status", path, "--json").communicate()
    states = {run["name"]: run for run in json.loads(shown)["runs"] if run["name"] in TRAININGS}
    of = {name: state["job"] for name, state in states.items()}
    assert {name: state["state"] for name, state in states.items()} == {
        "mini": "running",
        "probe b": "running",
        "probe a": "queued",
    }
    assert set(of.values()) <= set(node.call("squeue", "--noheader", "--array", "--format=%i").split())

    second = cotbal("run", path)
    notes = [second.stderr.readline() for _ in range(6)]
    assert notes[0].startswith("9 runs on ")
    assert sorted(notes[1:4]) == sorted(f"queued  {name} (job {job})\n" for name, job in of.items())
    assert {note.split(" (")[0] for note in notes[4:]} == {"start   mini", "start   probe b"}
    (folder / "script").unlink()
    node.call("scancel", of["probe b"])
    node.call("scontrol", "requeue", of["mini"])
    _, rest = second.communicate(timeout=300)
    assert second.returncode == 0, rest
    assert f"again   probe b: job {of['probe b']}: CANCELLED" in rest
    assert f"again   mini: job {of['mini']} is requeued" in rest
    assert {name: times for name, times in starts(folder).items() if times > 1} == {
        "mini": 2,
        "probe b": 2,
    }
    assert not (folder / "crowded").exists()

    local = toy(tmp_path / "local", resources={"slots": 2})
    assert CliRunner().invoke(app, ["run", str(local)]).exit_code == 0
    for name in ("scores.csv", "items.json", "weights.json"):
        assert (folder / "out" / name).read_text() == (tmp_path / "local" / "out" / name).read_text()
    assert sum(starts(folder).values()) == sum(starts(tmp_path / "local").values()) + 2

    # The final model too, of the same command under the same weights.
    final = cotbal("train", path)
    _, notes = final.communicate(timeout=300)
    assert final.returncode == 0, notes
    assert "final CoTBal (job " in notes
    assert CliRunner().invoke(app, ["train", str(local)]).exit_code == 0
    first, second = (json.loads((at / "out" / "finals.json").read_text()) for at in (folder, local.parent))
    of_slurm, of_local = (finals["methods"]["CoTBal"]["0"] for finals in (first, second))
    assert of_slurm["weights"] == of_local["weights"]
    assert of_slurm["scores"] == of_local["scores"]


def digits(folder, **resources):
    """The recipe of the digit world at the micro profile."""
    write_world(folder / "digits", "micro", 0)
    write_base(folder / "digits" / "base", PROFILES["micro"], 0)
    recipe = next(path for path in recipe_files() if path.name == "digits.yaml")
    content = yaml.safe_load(recipe.read_text().replace("profile=quick", "profile=micro"))
    tasks = {name: content["tasks"][name] for name in PROFILES["micro"].tasks}
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump(content | {"tasks": tasks, "rule": "equal", "resources": resources}))
    return path


@pytest.mark.full
def test_digit_world_with_a_cancelled_and_a_requeued_job_scores_as_on_one_machine(node, cotbal, tmp_path):
    path = digits(tmp_path / "slurm", **SLURM)
    driver, squeue = cotbal("run", path), ("squeue", "--noheader", "--array", "--format=%i %t")

    def running():
        lines = node.call(*squeue).splitlines()
        return [line.split()[0] for line in lines if line.split()[1] == "R"]

    wait_until(lambda: len(running()) == 2, driver, seconds=300)
    cancelled, requeued = running()
    node.call("scancel", cancelled)
    node.call("scontrol", "requeue", requeued)
    _, notes = driver.communicate(timeout=600)
    assert driver.returncode == 0, notes
    assert f"job {cancelled}: CANCELLED" in notes
    # The driver may not have looked in the seconds between.
    assert "Restarts=1" in node.call("scontrol", "show", "job", requeued)

    local = digits(tmp_path / "local", slots=2)
    assert CliRunner().invoke(app, ["run", str(local)]).exit_code == 0
    for name in ("scores.csv", "items.json"):
        at_slurm, at_local = (each.parent / "estimate-digits" / name for each in (path, local))
        assert at_slurm.read_text() == at_local.read_text()


def test_what_slurm_refuses_is_told_in_its_own_words(cotbal, tmp_path):
    wrong = {**SLURM, "slurm": {**SLURM["slurm"], "partition": "gpuu"}}
    refused = cotbal("run", toy(tmp_path, resources=wrong))
    _, notes = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "cotbal: sbatch: error: invalid partition specified: gpuu" in notes
    assert not starts(tmp_path)
