"""Several seeds in one project: weights of each, of their mean, and their spread."""

import json
import statistics
import sys

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.estimate import Scores, estimate_weights
from cotbal.weights import TaskWeights
from tests.project.toy import content, write


def test_several_seeds_write_one_set_of_weights_with_their_spread(tmp_path):
    # The toy scores every seed alike; here seed 3 does better on task a.
    (tmp_path / "bend.py").write_text(
        "import json, sys\n"
        "path, more = sys.argv[1], 0.1 * int(sys.argv[2]) * (sys.argv[3] == 'a')\n"
        "found = json.load(open(path))\n"
        "items = [item + more for item in found['items']]\n"
        "json.dump({'score': found['score'] + more, 'items': items}, open(path, 'w'))\n"
    )
    bent = (
        content(tmp_path)["evaluate"]["command"]
        + f" && {sys.executable} -S bend.py {{scores}} {{seed}} {{task}}"
    )
    path = write(tmp_path, seeds=[0, 3], evaluate={"command": bent})
    result = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert result.exit_code == 0, result.output
    out, printed = tmp_path / "out", json.loads(result.stdout)
    by_seed = [TaskWeights.load(out / f"seed-{seed}" / "weights.json") for seed in (0, 3)]
    written = TaskWeights.load(out / "weights.json")
    tables = [Scores.from_csv(out / f"seed-{seed}" / "scores.csv") for seed in (0, 3)]
    assert dict(written) == dict(estimate_weights(tables, fixed={"chat": 1.5}))
    for task in "abc":
        sd = statistics.stdev(weights[task] for weights in by_seed)
        assert sd > 0
        assert written.provenance["seed_sd"][task] == pytest.approx(sd)
    assert printed["seed_sd"] == written.provenance["seed_sd"]
    assert printed["pooled"] == dict(written)
    files = [str(out / f"seed-{seed}" / "scores.csv") for seed in (0, 3)]
    again = CliRunner().invoke(app, ["weights", *files, "--fixed", "chat=1.5", "--out", str(tmp_path / "w")])
    assert again.exit_code == 0, again.output
    assert dict(TaskWeights.load(tmp_path / "w")) == dict(written)
