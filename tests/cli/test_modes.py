"""`--mode no-probes` and `--budget` of `cotbal plan`, `run`, `status` and `weights`, on the toy project."""

import json

import pytest

from cotbal.estimate.no_probes import TwoModels
from cotbal.weights import TaskWeights
from tests.cli.commands import call
from tests.project.toy import starts, write


@pytest.fixture
def path(tmp_path):
    """The toy with a model of equal weights that its user has."""
    path = write(tmp_path, equal_model="ew")
    (tmp_path / "ew").mkdir()
    counts = {"a": 64, "b": 96, "c": 40, "chat": 10}
    (tmp_path / "ew" / "model.json").write_text(json.dumps({"counts": counts}))
    return path


def weights_of_files(folder):
    """What `cotbal weights` makes of the files of an estimate, and what it prints."""
    out, again = folder / "out", folder / "again.json"
    options = ["--items", out / "items.json", "--fixed", "chat=1.5", "--out", again, "--json"]
    shown = call("weights", out / "scores.csv", *options)
    assert shown.exit_code == 0, shown.output
    return dict(TaskWeights.load(again)), json.loads(shown.stdout)


def test_mini_run_and_the_given_model_make_the_weights(path, tmp_path):
    plan = json.loads(call("plan", path, "--mode", "no-probes", "--json").stdout)
    assert plan["totals"]["trainings"] == 1
    assert plan["totals"]["evaluations"] == 6
    result = call("run", path, "--mode", "no-probes")
    assert result.exit_code == 0, result.output
    assert sorted(starts(tmp_path)) == [
        "equal on a",
        "equal on b",
        "equal on c",
        "mini",
        *(f"mini on {t}" for t in "abc"),
    ]
    pair = TwoModels.from_csv(tmp_path / "out" / "scores.csv")
    own = [64**0.5, 96**0.5, 40**0.5]
    others = sum(own) + 10**0.5
    assert list(pair.equal) == pytest.approx([(root + 0.2 * (others - root)) / 20 for root in own])
    written = TaskWeights.load(tmp_path / "out" / "weights.json")
    assert dict(written) == dict(pair.weights(fixed={"chat": 1.5}))
    # From the files alone the same weights, and here their intervals.
    again, summary = weights_of_files(tmp_path)
    assert again == dict(written)
    for task, (low, high) in zip("abc", summary["intervals"], strict=True):
        assert low < written[task] < high
    shown = json.loads(call("status", path, "--mode", "no-probes", "--json").stdout)["runs"]
    assert {run["state"] for run in shown} == {"finished"}


def test_cheap_probes_have_a_quarter_of_their_task_with_the_mini_subset_inside(path, tmp_path):
    write(tmp_path, equal_model="ew", mini_ratio="1/16")
    plan = json.loads(call("plan", path, "--mode", "cheap", "--json").stdout)
    runs = {run["name"]: run for run in plan["runs"] if run["kind"] == "train"}
    # Minis of 4, 6 and 3 (2.5 rounded), quarters of 16, 24 and 10.
    assert {name: run["samples"] for name, run in runs.items()} == {
        "mini": 13,
        "quarter probe a": 25,
        "quarter probe b": 31,
        "quarter probe c": 20,
    }
    subsets = {}
    for file in (tmp_path / "out" / "data" / "mini").glob("a-*.json"):
        subsets[len(json.loads(file.read_text()))] = {record["id"] for record in json.loads(file.read_text())}
    assert set(subsets) == {4, 16}
    assert subsets[4] < subsets[16]


@pytest.mark.full
def test_cheap_estimate_runs_and_its_files_give_its_weights(path, tmp_path):
    write(tmp_path, equal_model="ew", mini_ratio="1/16", mode="cheap")
    assert call("run", path).exit_code == 0
    models = [json.loads(file.read_text())["counts"] for file in tmp_path.glob("out/outputs/*/model.json")]
    assert {"a": 16, "b": 6, "c": 3} in models
    written = TaskWeights.load(tmp_path / "out" / "weights.json")
    assert weights_of_files(tmp_path)[0] == dict(written)


@pytest.mark.full
def test_report_of_the_cheap_estimate_says_what_its_difficulty_is_from(path, tmp_path):
    write(tmp_path, equal_model="ew", mini_ratio="1/16")
    assert call("run", path, "--mode", "cheap").exit_code == 0
    result = call("report", path, "--mode", "cheap")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "report"
    weights = json.loads((folder / "report.json").read_text())["by_seed"]["0"]["weights"]["cotbal"]
    assert weights == dict(TaskWeights.load(tmp_path / "out" / "weights.json"))
    page = (folder / "report.html").read_text()
    assert "V<sub>i</sub>(mini) / V<sub>i</sub>(equal weights)" in page
    assert "a quarter of its own data" in page
    assert "own data in full" not in page


def test_without_probes_there_is_nothing_to_report(path):
    result = call("report", path, "--mode", "no-probes")
    assert result.exit_code == 2
    assert "mode no-probes measures no contribution to report; cotbal weights" in result.output
    assert "only with a YAML" in call("report", "scores.csv", "--mode", "cheap").output


def test_full_estimate_afterwards_repeats_nothing_and_another_model_is_scored_again(path, tmp_path):
    call("run", path, "--mode", "no-probes")
    assert call("run", path).exit_code == 0
    before = starts(tmp_path)
    assert max(before.values()) == 1
    assert before["probe a"] == 1
    (tmp_path / "ew" / "model.json").write_text(json.dumps({"counts": {"a": 1, "b": 1, "c": 1}}))
    assert call("run", path, "--mode", "no-probes").exit_code == 0
    assert sorted(starts(tmp_path) - before) == ["equal on a", "equal on b", "equal on c"]


@pytest.mark.parametrize(
    ("budget", "price"),
    [("274 samples", "the runs come to 275"), ("5 GPU-hours", "the GPU-hours of the plan are not known")],
)
def test_what_is_above_the_budget_is_planned_and_not_run(path, tmp_path, budget, price):
    for verb in ("plan", "run"):
        result = call(verb, path, "--budget", budget)
        assert result.exit_code == 2
        assert result.stderr.startswith("cotbal: budget: ")
        assert price in result.stderr
        assert result.stderr.count("\n") == 1
    assert not starts(tmp_path)


def test_what_is_within_the_budget_runs(path):
    assert call("run", path, "--budget", "25 samples", "--mode", "no-probes").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"equal_model": None}, (), "mode: no-probes needs equal_model"),
        ({"equal_model": "gone"}, (), "equal_model: expected the folder of a model, got"),
        ({}, ("--precise",), "precise: mode no-probes takes the difficulty from equal_model"),
        ({}, ("--mode", "cheap"), "mini_ratio: expected at most 1/16 in mode cheap"),
        ({"rule": "difficulty"}, (), "rule: expected cotbal"),
        ({}, ("--mode", "adaptive"), "mode: "),
        ({"shrink": True}, (), "shrink: mode no-probes measures no contribution to pull"),
        ({}, ("--budget", "5 apples"), "expected a number of GPU-hours or samples"),
        ({}, ("--budget", "0 samples"), "expected a number of GPU-hours or samples"),
    ],
)
def test_what_does_not_fit_the_mode_is_told_in_a_line(path, tmp_path, changes, options, message):
    write(tmp_path, **{"equal_model": "ew", "mode": "no-probes", **changes})
    result = call("plan", path, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
