"""Several seeds in one project: their weights, those of the mean, the spread; all verbs say the same."""

import json
import statistics
import sys

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.items_json import read_items
from cotbal.weights import TaskWeights
from tests.project.toy import content, write


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def bent(folder, **changes):
    """The toy scores every seed alike; here seed 3 does better on task a."""
    (folder / "bend.py").write_text(
        "import json, sys\n"
        "path, more = sys.argv[1], 0.1 * int(sys.argv[2]) * (sys.argv[3] == 'a')\n"
        "found = json.load(open(path))\n"
        "items = [item + more for item in found['items']]\n"
        "json.dump({**found, 'score': found['score'] + more, 'items': items}, open(path, 'w'))\n"
    )
    command = content(folder)["evaluate"]["command"]
    command += f" && {sys.executable} -S bend.py {{scores}} {{seed}} {{task}}"
    return write(folder, seeds=[0, 3], evaluate={"command": command}, **changes)


def read(folder):
    return Scores.from_csv(folder / "scores.csv", **read_items(folder / "items.json")._asdict())


@pytest.mark.parametrize("shrink", [pytest.param(False, marks=pytest.mark.full), True])
def test_several_seeds_write_one_set_of_weights_with_their_spread(tmp_path, shrink):
    path = bent(tmp_path, shrink=shrink)
    printed, out = json.loads(call("run", path, "--json").stdout), tmp_path / "out"
    folders = [out / f"seed-{seed}" for seed in (0, 3)]
    by_seed = [TaskWeights.load(folder / "weights.json") for folder in folders]
    written = TaskWeights.load(out / "weights.json")
    tables = [read(folder) for folder in folders]
    assert [tables[1].clusters[task].tolist() for task in "abc"] == [[0, 0, 1]] * 3
    assert dict(written) == dict(estimate_weights(tables, fixed={"chat": 1.5}, shrink=shrink))
    # Seeds that disagree are noise, so that shrinkage has something to do.
    assert (dict(written) != dict(estimate_weights(tables, fixed={"chat": 1.5}))) == shrink
    spread = written.provenance["seed_sd"]
    for task in "abc":
        sd = statistics.stdev(weights[task] for weights in by_seed)
        assert sd > 0
        assert spread[task] == pytest.approx(sd)
    assert printed["seed_sd"] == spread
    assert printed["pooled"] == dict(written)

    files = [folder / "scores.csv" for folder in folders]
    items = [word for folder in folders for word in ("--items", folder / "items.json")]
    options = ["--shrink"] if shrink else []
    call("weights", *files, *items, *options, "--fixed", "chat=1.5", "--out", tmp_path / "w")
    again = TaskWeights.load(tmp_path / "w")
    assert dict(again) == dict(written)
    assert again.provenance["seed_sd"] == spread

    call("report", path)
    report = json.loads((out / "report" / "report.json").read_text())
    (entry,) = report["by_seed"].values()
    assert entry["weights"]["cotbal"] == dict(written)
    assert report["seed_sd"] == spread
    for name in ("one2all", "all2one", "difficulty"):
        assert entry[name] == again.provenance[name]
    assert report["intervals"] == again.provenance["uncertainty"]
    card = (out / "report" / "report.md").read_text()
    assert "sd over seeds, CoTBal" in card
    assert f"{spread['a']:.3f} |" in card
    assert ("The weights are shrunk" in card) == shrink


def test_several_seeds_without_probes_pool_too(tmp_path):
    (tmp_path / "ew").mkdir()
    (tmp_path / "ew" / "model.json").write_text(json.dumps({"counts": {"a": 64, "b": 96, "c": 40}}))
    call("run", bent(tmp_path, mode="no-probes", equal_model="ew"))
    out = tmp_path / "out"
    written = TaskWeights.load(out / "weights.json")
    assert written.provenance["seed_sd"]["a"] > 0
    files = [out / f"seed-{seed}" / "scores.csv" for seed in (0, 3)]
    call("weights", *files, "--fixed", "chat=1.5", "--out", tmp_path / "w")
    assert dict(TaskWeights.load(tmp_path / "w")) == dict(written)


def test_weights_of_an_earlier_start_are_called_old_under_every_seed(tmp_path):
    (tmp_path / "ew").mkdir()
    (tmp_path / "ew" / "model.json").write_text("{}")
    evaluate = {"command": "echo '{{\"score\": 0}}' > {scores}; test -d {model}"}
    path = write(tmp_path, seeds=[0, 3], mode="no-probes", equal_model="ew", evaluate=evaluate)
    assert call("plan", path).exit_code == 0
    old = tmp_path / "out" / "seed-3" / "weights.json"
    old.parent.mkdir()
    old.write_text("{}")
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 1
    assert "No weights for seed 3: " in result.stderr
    assert f"{old} is of an earlier start" in result.stderr
    assert f"{old.with_name('scores.csv')} is of" not in result.stderr
