"""`cotbal demo --profile micro`: whole, killed at several moments, started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.runs.store import locked
from tests.cli.watching import children, wait_until
from tests.runs.fake_runs import alive

RUNS = 7
KILL, INT, TERM = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
# By profile: the number of runs, and after how many finished ones the demo is killed by what, in turn.
KILLS = {
    "micro": (RUNS, {1: KILL, 4: INT}),
    "quick": (18, {0: KILL, 2: INT, 9: TERM, 16: KILL}),
}


def start(out, profile="micro"):
    arguments = [sys.executable, "-m", "cotbal", "demo", "--profile", profile, "--workers", "2"]
    return subprocess.Popen(
        [*arguments, "--out", str(out), "--json", "--no-page"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(results):
    return {key: value for key, value in results.items() if key != "run"}


def finished_runs(out):
    return sorted(path.parent.name for path in out.glob("runs/*/result.json"))


def run_through(out, profile="micro"):
    process = start(out, profile)
    printed, notes = process.communicate()
    assert process.returncode == 0, notes
    return json.loads(printed), notes


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    printed, notes = run_through(out)
    assert notes.startswith(f"{RUNS} runs on 2 worker processes\n")
    assert printed == json.loads((out / "results.json").read_text())
    return out


@pytest.fixture
def copied(unbroken, tmp_path):
    return Path(shutil.copytree(unbroken, tmp_path / "out"))


def results_of(out):
    return numbers(json.loads((out / "results.json").read_text()))


@pytest.fixture
def run():
    def run(out, *options):
        arguments = ["demo", "--profile", "micro", "--workers", "2", "--out", str(out), *options]
        return CliRunner().invoke(app, arguments)

    return run


def kill_at(out, profile, moment, number):
    runs, before = KILLS[profile][0], len(finished_runs(out))
    process = start(out, profile)
    wait_until(lambda: len(children(process.pid)) == min(2, runs - before), process)
    workers = children(process.pid)
    wait_until(lambda: len(finished_runs(out)) >= moment, process)
    process.send_signal(number)
    _, notes = process.communicate()
    wait_until(lambda: not any(map(alive, workers)), seconds=60)
    if before:
        assert notes.startswith(f"continuing: {before} of {runs} runs are finished")
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert notes.endswith("the same command continues from them\n")


def kill_and_compare(profile, whole, out):
    runs, kills = KILLS[profile]
    for moment, number in kills.items():
        kill_at(out, profile, moment, number)
    kept = len(finished_runs(out))
    assert max(kills) <= kept < runs
    printed, notes = run_through(out, profile)
    assert notes.startswith(f"continuing: {kept} of {runs} runs are finished")
    assert numbers(printed) == results_of(whole)
    assert finished_runs(out) == finished_runs(whole)
    for key in finished_runs(whole):
        one, other = (
            json.loads((o / "runs" / key / "result.json").read_text())["result"] for o in (whole, out)
        )
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.full
def test_kills_at_several_moments_change_no_number_and_leave_no_process(unbroken, tmp_path):
    kill_and_compare("micro", unbroken, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_kills_of_the_quick_profile_change_no_number(tmp_path):
    run_through(tmp_path / "whole", "quick")
    kill_and_compare("quick", tmp_path / "whole", tmp_path / "killed")


def test_second_start_only_prints_and_draws(copied, run):
    stamps = {path: path.stat().st_mtime_ns for path in copied.glob("runs/*/*")}
    result = run(copied)
    assert result.exit_code == 0
    assert result.stderr == f"all {RUNS} runs are finished\n"
    assert "Weights by rule" in result.stdout
    assert "One seed cannot tell this from noise" in " ".join(result.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in copied.glob("runs/*/*")} == stamps
    page = (copied / "report.html").read_text()
    assert "<svg" in page
    # A picture of a task's sample.
    assert "data:image/png;base64" in page
    assert {path.suffix for path in (copied / "figures").iterdir()} == {".png", ".svg"}
    for line in result.stdout.splitlines()[-5:]:
        assert Path(line.split()[-1]).exists()


@pytest.mark.full
def test_another_seed_in_the_same_folder_is_not_mixed_up(copied, unbroken, run):
    result = run(copied, "--seed", "1", "--json", "--no-page")
    assert result.stderr.startswith(f"{RUNS} runs on")
    other = json.loads(result.stdout)
    assert other["seeds"] == [1]
    assert other["by_seed"]["1"]["scores"] != results_of(unbroken)["by_seed"]["0"]["scores"]
    again = run(copied, "--json", "--no-page")
    assert again.stderr == f"all {RUNS} runs are finished\n"
    assert numbers(json.loads(again.stdout)) == results_of(unbroken)


def test_second_start_at_the_same_time_says_who_works_there(tmp_path, run):
    with locked(tmp_path):
        result = run(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"cotbal: {tmp_path} is in use by process {os.getpid()} on ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_figure_that_fails_does_not_lose_the_results(copied, unbroken, run, monkeypatch):
    (copied / "results.json").unlink()

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr("cotbal.report.figures.write_figures", fail)
    result = run(copied, "--json")
    assert result.exit_code == 1
    assert "not all figures: RuntimeError('no ink')" in result.stderr
    assert numbers(json.loads(result.stdout)) == results_of(copied) == results_of(unbroken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--profile", "huge"), "profile must be one of quick, full, micro, got 'huge'"),
        (("--workers", "0"), "'--workers'"),
        (("--seed", "-1"), "'--seed'"),
        (("--device", "tpu"), "'--device'"),
    ],
)
def test_mistake_is_told_and_nothing_is_written(tmp_path, run, options, message):
    result = run(tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    result = run(tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("cotbal: ")
    assert len(result.stderr.splitlines()) == 1


def test_run_that_fails_is_shown_with_its_traceback(tmp_path, run, monkeypatch):
    # A module without a model's imports, which two workers would wait for.
    monkeypatch.setattr("cotbal.demo.pipeline.FUNCTION", "cotbal.demo.profiles:walk")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "AttributeError: module 'cotbal.demo.profiles' has no attribute 'walk'" in result.stderr
    assert not (tmp_path / "results.json").exists()
