"""`cotbal plan`, `run`, `status` on the toy project: whole, with failing commands, killed, twice at once."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.items_json import read_items
from cotbal.runs.processes import alive
from cotbal.runs.store import Store, locked
from cotbal.weights import TaskWeights
from tests.cli.commands import call
from tests.cli.watching import children, wait_until
from tests.project.toy import content, starts, write

RUNS = {"mini", "probe a", "probe b", "probe c"}
WRITTEN = ("scores.csv", "items.json", "weights.json")
FAILED = ("probe a", "evaluate mini on a")


def start(path):
    return subprocess.Popen(
        [sys.executable, "-m", "cotbal", "run", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As from a terminal: a launcher of its own cannot be told by its group.
        start_new_session=True,
    )


def states(path):
    shown = call("status", path, "--json")
    assert shown.exit_code == 0, shown.output
    return {run["name"]: run for run in json.loads(shown.stdout)["runs"]}


def script(folder, **how):
    (folder / "script").write_text(json.dumps(how))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    result = call("run", write(folder))
    assert result.exit_code == 0, result.output
    return folder, result


def test_whole_estimate_runs_every_command_once_and_writes_scores_items_and_weights(unbroken):
    folder, result = unbroken
    commands = Counter([*RUNS, *(f"{run} on {task}" for run in RUNS for task in "abc")])
    assert starts(folder) == commands
    for name in WRITTEN:
        assert f"{folder / 'out' / name}" in result.stdout
    items = read_items(folder / "out" / "items.json").items
    scores = Scores.from_csv(folder / "out" / "scores.csv", items=items)
    # By hand: the full 96 of b, minis of 8 and 5, the score a sum of square roots.
    assert scores.probes[1, 0].item() == pytest.approx((8**0.5 + 0.2 * (96**0.5 + 5**0.5)) / 20)
    expected = estimate_weights(scores, fixed={"chat": 1.5})
    assert TaskWeights.load(folder / "out" / "weights.json").weights == expected.weights
    assert list(items) == ["mini", "a", "b", "c"]


def test_models_are_trained_on_their_data_with_equal_weights_and_the_seed(unbroken):
    folder, _ = unbroken
    models = [json.loads(path.read_text()) for path in folder.glob("out/outputs/*/model.json")]
    by_b = sorted(models, key=lambda model: -model["counts"]["b"])
    assert by_b[0]["counts"] == {"a": 8, "b": 96, "c": 5}
    assert all(model["weights"] == {"a": 1.0, "b": 1.0, "c": 1.0} for model in models)
    assert {model["seed"] for model in models} == {0}
    assert not list((folder / "out" / "data" / "mixtures").iterdir())


def test_second_start_does_nothing_and_status_tells_all_is_finished(unbroken):
    folder, _ = unbroken
    before = starts(folder)
    again = call("run", folder / "toy.yaml", "--json")
    assert again.exit_code == 0
    assert again.stderr == "all 16 runs are finished\n"
    assert json.loads(again.stdout)["complete"] is True
    assert starts(folder) == before
    shown = states(folder / "toy.yaml")
    assert {run["state"] for run in shown.values()} == {"finished"}
    assert shown["evaluate mini on a"]["score"] == pytest.approx((8**0.5 + 0.2 * (12**0.5 + 5**0.5)) / 20)
    assert "16 finished" in call("status", folder / "toy.yaml").stdout


def test_plan_reads_each_result_once(unbroken, monkeypatch):
    """One holds the score of every item, and its folder may lie on a slow disk."""
    folder, _ = unbroken
    read, own = Counter(), Store.record

    def record(store, key, made_from):
        read[key] += 1
        return own(store, key, made_from)

    monkeypatch.setattr(Store, "record", record)
    assert "16 of 16 runs are finished." in call("plan", folder / "toy.yaml").stdout
    assert len(read) == 16
    assert set(read.values()) == {1}


def test_plan_and_dry_run_show_the_commands_that_run_and_start_none(tmp_path):
    path = write(tmp_path)
    shown, dry = call("plan", path), call("run", path, "--dry-run")
    assert shown.exit_code == dry.exit_code == 0
    assert shown.stdout == dry.stdout
    plan = json.loads(call("plan", path, "--json").stdout)
    assert plan == json.loads((tmp_path / "out" / "plan.json").read_text())
    for run in plan["runs"]:
        assert run["command"] in shown.stdout
    assert not starts(tmp_path)
    assert not (tmp_path / "out" / "runs").exists()
    assert {run["state"] for run in states(path).values()} == {"waiting"}
    assert call("run", path).exit_code == 0
    for run in plan["runs"]:
        log = (tmp_path / "out" / "runs" / run["key"] / "log.txt").read_text()
        assert log.splitlines()[0] == f"$ {run['command']}"


def test_commands_that_fail_leave_the_rest_done_and_are_tried_again_at_the_next_start(tmp_path, unbroken):
    path = write(tmp_path)
    script(
        tmp_path,
        **{
            "probe a": {"fails": 9},
            "probe b": {"empty": 9},
            "mini on a": {"fails": 9},
            "mini on b": {"silent": 9},
            "mini on c": {"truncated": 9},
        },
    )
    result = call("run", path)
    assert result.exit_code == 1
    text = result.stderr
    of_a, of_mini = (tmp_path / "out" / "runs" / states(path)[name]["key"] for name in FAILED)
    assert f"run 'probe a' failed in {of_a}:" in text
    assert "the command ended with exit status 3; the end of" in text
    assert "this is probe a" in text
    assert f"the command ended with exit status 1; the end of {of_mini}/log.txt:" in text
    assert "left {output} empty" in text
    assert "no such question" in text
    assert "the command ended well but wrote no score; expected" in text
    assert "got no JSON" in text
    # Two trainings, their six evaluations, and three evaluations of the mini run.
    assert "11 of 16 runs are missing, 5 failed and the others need them" in text
    assert not (tmp_path / "out" / "weights.json").exists()
    shown = states(path)
    assert Counter(run["state"] for run in shown.values()) == {"finished": 5, "failed": 5, "waiting": 6}
    assert "exit status 3" in shown["probe a"]["reason"]
    assert not any("probe a on" in name for name in starts(tmp_path))

    before = starts(tmp_path)
    (tmp_path / "script").unlink()
    assert call("run", path).exit_code == 0
    assert sum((starts(tmp_path) - before).values()) == 11
    for name in WRITTEN:
        assert (tmp_path / "out" / name).read_text() == (unbroken[0] / "out" / name).read_text()


def test_truncated_result_is_run_again_and_no_other(tmp_path):
    path = write(tmp_path)
    assert call("run", path).exit_code == 0
    weights = (tmp_path / "out" / "weights.json").read_text()
    key = states(path)["evaluate mini on b"]["key"]
    result, before = tmp_path / "out" / "runs" / key / "result.json", starts(tmp_path)
    result.write_text(result.read_text()[:-20])
    assert call("run", path).exit_code == 0
    assert dict(starts(tmp_path) - before) == {"mini on b": 1}
    assert (tmp_path / "out" / "weights.json").read_text() == weights


def test_changed_file_and_other_items_are_told_at_once_and_old_weights_are_called_old(tmp_path, unbroken):
    # The first run's results lie in another folder; a copy of them belongs to this file too.
    shutil.copytree(unbroken[0] / "out", tmp_path / "out")
    path, changed = write(tmp_path), content(tmp_path)
    changed["evaluate"]["command"] += " {data}"
    path.write_text(json.dumps(changed))
    assert "Changed: command, '{data}' is new." in call("plan", path).stdout
    script(tmp_path, **{"probe a on b": {"doubled": 9}})
    result = call("run", path)
    assert result.exit_code == 1
    assert "note    finished under other settings and done again: evaluate mini on a, " in result.stderr
    wrong = re.escape(str(tmp_path / "out" / "runs" / states(path)["evaluate probe a on b"]["key"]))
    note = rf"note    evaluate \w+ ?\w? on b has \d+ items, .*no weights follow.*{wrong}"
    assert re.search(note, result.stderr), result.stderr
    assert re.search(note, result.stderr).start() < result.stderr.index("100 %")
    assert f"{tmp_path / 'out' / 'weights.json'} is of an earlier start" in result.stderr


def test_command_that_fails_once_is_tried_again_as_often_as_the_file_says(tmp_path):
    path = write(tmp_path, resources={"slots": 2, "retries": 2})
    script(tmp_path, **{"mini": {"fails": 2}, "mini on a": {"bare": 9}})
    result = call("run", path)
    assert result.exit_code == 0
    assert result.stderr.count("again   mini: the command ended with exit status 3") == 2
    assert starts(tmp_path)["mini"] == 3
    # One evaluation without items: those of its task are left out.
    assert set(read_items(tmp_path / "out" / "items.json").items["a"]) == {"b", "c"}


def test_scores_that_allow_no_weights_are_kept_and_told(tmp_path):
    evaluate = {"command": "echo '{{\"score\": 0.5}}' > {scores}; test -d {model}"}
    result = call("run", write(tmp_path, evaluate=evaluate))
    assert result.exit_code == 1
    assert "No weights for seed 0: " in result.stderr
    assert (tmp_path / "out" / "scores.csv").exists()
    assert not (tmp_path / "out" / "weights.json").exists()


def test_each_gpu_group_is_what_its_commands_see_and_another_python_is_not_led_astray(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    train = {
        "command": "echo $CUDA_VISIBLE_DEVICES ${{PYTHONPATH-none}} > {output}/seen; test -f {data}; sleep 1"
    }
    evaluate = {"command": "echo '{{\"score\": 0.5}}' > {scores}; test -d {model}"}
    resources = {"gpus": [3, 1, 0, 2], "gpus_per_run": 2}
    call("run", write(tmp_path, train=train, evaluate=evaluate, resources=resources))
    seen = {path.read_text() for path in tmp_path.glob("out/outputs/*/seen")}
    assert seen == {"3,1 none\n", "0,2 none\n"}


def test_output_of_a_training_that_resumes_is_kept_and_otherwise_emptied(tmp_path):
    for resume in (True, False):
        folder = tmp_path / str(resume)
        toy = content(folder)["train"]
        # A checkpoint of the first try, which fails.
        train = {**toy, "command": "touch {output}/checkpoint-1 && " + toy["command"], "resume": resume}
        train["command"] = toy["command"] + " || {{ touch {output}/checkpoint-1; exit 3; }}"
        path = write(folder, train=train, resources={"retries": 1})
        script(folder, mini={"fails": 1})
        assert call("run", path).exit_code == 0
        models = [json.loads(file.read_text()) for file in folder.glob("out/outputs/*/model.json")]
        found = Counter(tuple(model["found"]) for model in models)
        assert found == ({("checkpoint-1",): 1, (): 3} if resume else {(): 4})


def finished(out):
    return len(list(out.glob("runs/*/result.json")))


def kill_a_worker_and_then_the_driver(path, out, chance, number):
    driver, moment = start(path), finished(out) + chance.randint(0, 2)
    wait_until(lambda: finished(out) >= moment and children(driver.pid), driver)
    os.kill(chance.choice(children(driver.pid)), signal.SIGKILL)
    wait_until(lambda: finished(out) > moment, driver)
    driver.send_signal(number)
    _, notes = driver.communicate()
    if number != signal.SIGKILL:
        assert driver.returncode == 128 + number
        assert notes.endswith("the same command continues from them\n")
    folders = [folder for folder in (out / "runs").iterdir() if folder.is_dir()]
    wait_until(lambda: not any(map(alive, folders)), seconds=10)
    assert "running" not in {run["state"] for run in states(path).values()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2, 3))])
def test_kills_of_driver_and_workers_at_random_moments_change_no_number(tmp_path, unbroken, seed):
    chance, path, out = random.Random(seed), write(tmp_path), tmp_path / "out"
    script(tmp_path, nap=0.2)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        kill_a_worker_and_then_the_driver(path, out, chance, number)
    before, kept = starts(tmp_path), finished(out)
    assert kept < 16
    last = start(path)
    printed, notes = last.communicate()
    assert last.returncode == 0, notes
    assert notes.startswith(f"continuing: {kept} of 16 runs are finished")
    assert json.loads(printed)["complete"] is True
    assert sum((starts(tmp_path) - before).values()) == 16 - kept
    assert not (tmp_path / "crowded").exists()
    for name in WRITTEN:
        assert (out / name).read_text() == (unbroken[0] / "out" / name).read_text()


@pytest.mark.full
def test_kill_9_of_a_worker_and_of_the_driver_at_ten_random_moments_each_changes_no_score(tmp_path):
    chance, seeds = random.Random(0), [0, 1, 2, 3, 4, 5]
    whole = write(tmp_path / "whole", seeds=seeds)
    assert call("run", whole).exit_code == 0
    path, out = write(tmp_path / "killed", seeds=seeds), tmp_path / "killed" / "out"
    script(path.parent, nap=0.3)
    for _ in range(10):
        driver = start(path)
        before = len(list(out.glob("runs/*")))
        wait_until(lambda: len(list(out.glob("runs/*"))) > before and children(driver.pid), driver)  # noqa: B023
        wait(chance, driver)
        os.kill(chance.choice(children(driver.pid)), signal.SIGKILL)
        wait(chance, driver)
        driver.kill()
        driver.communicate()
    assert 0 < finished(out) < 16 * len(seeds)
    script(path.parent, nap=0)
    assert call("run", path).exit_code == 0
    assert not (path.parent / "crowded").exists()
    for folder in ("", *(f"seed-{seed}" for seed in seeds)):
        for name in ("scores.csv", "weights.json"):
            expected = whole.parent / "out" / folder / name
            assert (out / folder / name).read_text() == expected.read_text()


def wait(chance, driver):
    """A moment at random, of the length of a few commands."""
    time.sleep(chance.random())
    assert driver.poll() is None


def test_commands_left_by_a_driver_and_workers_killed_at_once_are_ended_before_their_run_starts_again(
    tmp_path,
):
    path = write(tmp_path, resources={"slots": 1})
    script(tmp_path, nap=30)
    driver = start(path)
    wait_until(lambda: starts(tmp_path), driver)
    (worker,) = children(driver.pid)
    (folder,) = (path for path in (tmp_path / "out" / "runs").iterdir() if path.is_dir())
    # So that the worker cannot clean up when its driver is gone.
    os.kill(worker, signal.SIGSTOP)
    driver.kill()
    driver.communicate()
    os.kill(worker, signal.SIGKILL)
    assert alive(folder)
    script(tmp_path, nap=0)
    assert call("run", path).exit_code == 0
    assert not (tmp_path / "crowded").exists()
    assert sorted(starts(tmp_path).values()) == [1] * 15 + [2]


def test_beside_a_working_driver_another_says_who_it_is_and_status_disturbs_nothing(tmp_path):
    path = write(tmp_path)
    with locked(tmp_path / "out"):
        second = call("run", path)
        assert {run["state"] for run in states(path).values()} == {"waiting"}
    assert second.exit_code == 2
    assert second.stderr.startswith(f"cotbal: {tmp_path / 'out'} is in use by process {os.getpid()} on ")
    assert len(second.stderr.splitlines()) == 1
    assert not starts(tmp_path)


def test_output_that_cannot_be_written_loses_the_run_that_meets_it_and_no_other(tmp_path, unbroken):
    path = write(tmp_path)
    # Where the folder of the model should be there is a file.
    plan = json.loads(call("plan", path, "--json").stdout)
    key = next(run["key"] for run in plan["runs"] if run["name"] == "mini")
    half = tmp_path / "out" / "data" / "mixtures" / f".{key}.json.0123.tmp"
    half.parent.mkdir()
    half.write_text("left by a kill")
    (tmp_path / "out" / "outputs").mkdir()
    (tmp_path / "out" / "outputs" / key).write_text("in the way")
    result = call("run", path, "--json")
    assert result.exit_code == 1
    assert "run 'mini' failed" in result.stderr
    printed = json.loads(result.stdout)
    assert (list(printed["failures"]), len(printed["missing"])) == (["mini"], 4)
    (tmp_path / "out" / "outputs" / key).unlink()
    assert call("run", path).exit_code == 0
    assert not list(half.parent.iterdir())
    assert (tmp_path / "out" / "scores.csv").read_text() == (unbroken[0] / "out" / "scores.csv").read_text()
