"""What `cotbal run` prints of an outcome."""

import json
from collections import Counter

import pytest

from cotbal.cli.run import _print
from cotbal.project import session
from cotbal.project.outcome import Outcome
from cotbal.runs.plan import Plan
from cotbal.weights import TaskWeights
from tests.cli.commands import call
from tests.project.instant import instantly
from tests.project.test_session import score
from tests.project.toy import write


def test_columns_of_c_that_were_left_out_are_named(capsys):
    weights = TaskWeights({"a": 1.0, "b": 1.0}, provenance={"unidentified": ["b"]})
    _print(Outcome(Plan([]), {}, [], weights={3: weights}))
    assert "Seed 3, contribution not identified and left out: b" in capsys.readouterr().out
    _print(Outcome(Plan([]), {}, [], weights={3: TaskWeights({"a": 1.0, "b": 1.0})}))
    assert "not identified" not in capsys.readouterr().out


def test_what_becomes_of_a_column_of_c_is_told_as_it_is_also_of_the_mean_over_seeds(capsys):
    """A shrunk column is not left out, and some rules take no contribution at all."""
    both = {"a": 1.0, "b": 1.0}
    one, mean = (TaskWeights(both, "cotbal", provenance={"unidentified": [t], "shrink": True}) for t in "ab")
    _print(Outcome(Plan([]), {}, [], weights={3: one}, pooled=mean))
    shown = capsys.readouterr().out
    assert "Seed 3, contribution not identified and pulled to the mean: a\n" in shown
    assert "Mean scores, contribution not identified and pulled to the mean: b\n" in shown
    for rule in ("difficulty", "equal"):
        of_rule = TaskWeights(both, rule, provenance={"unidentified": ["b"], "shrink": False})
        _print(Outcome(Plan([]), {}, [], weights={3: of_rule}))
        assert "not identified" not in capsys.readouterr().out


@pytest.mark.parametrize("clusters", [(7, 7), (7, 8)])
def test_that_one_cluster_of_items_allows_no_intervals_is_told_once(tmp_path, monkeypatch, clusters):
    monkeypatch.setattr(session, "work", instantly(score, clusters=clusters))
    path, reason = write(tmp_path, seeds=[0, 1]), "all items of a, b, c are one, or belong together"
    shown = call("run", path)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(f"There are no intervals, as {reason}.") == (clusters == (7, 7))
    found = json.loads(call("run", path, "--json").stdout)
    assert found["no_intervals"] == (reason if clusters == (7, 7) else None)


def test_samples_are_counted_as_in_the_plan_from_start_to_end(tmp_path):
    """Whatever the epochs; an evaluation has items."""
    path = write(tmp_path)
    content = json.loads(path.read_text())
    content["train"]["epochs"] = 3
    path.write_text(json.dumps(content))
    told = call("run", path).stderr
    counted = [
        line.rpartition("(")[2].split(")")[0] for line in told.splitlines() if line.startswith("start")
    ]
    counted += [line.split(", ")[1].split(";")[0] for line in told.splitlines() if line.startswith("done")]
    samples = Counter(text for text in counted if text.endswith("samples"))
    assert samples == {f"{size} samples": 2 for size in (25, 81, 109, 60)}
    assert counted.count("20 items") == 12


def test_a_bound_far_above_every_score_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "work", instantly(lambda name, task: 1 - score(name, task)))
    path = write(tmp_path, seeds=[0, 1])
    content = json.loads(path.read_text())
    for task in "abc":
        content["tasks"][task] |= {
            "better": "lower",
            "transform": "complement: 100" if task == "b" else "complement: 1",
        }
    path.write_text(json.dumps(content))
    shown = call("run", path)
    assert shown.exit_code == 0, shown.output
    assert (
        shown.stderr.count("task 'b': the bound of complement: 100 is far above its largest score, 0.6") == 1
    )
    assert shown.stderr.count("far above") == 1


@pytest.mark.parametrize("wrong", ["seed 1/evaluate probe a on b", "seed 1/"])
def test_percentages_among_shares_are_told(tmp_path, monkeypatch, wrong):
    """As of an evaluation that was changed between the runs, of which the key of a run knows nothing."""
    monkeypatch.setattr(
        session,
        "work",
        instantly(lambda name, task: score(name, task) * (100 if name.startswith(wrong) else 1)),
    )
    path = write(tmp_path, seeds=[0, 1])
    shown = call("run", path)
    assert shown.exit_code == 0, shown.output
    told = [line for line in shown.stderr.splitlines() if "write the column in one scale" in line]
    assert ["task 'b': " in line and " of seed 1'; if" in line for line in told].count(True) == 1, (
        shown.stderr
    )
    assert len(told) == (1 if "probe" in wrong else 3)
    assert call("report", path).stdout.count("write the column in one scale.") == len(told)
    tables = [tmp_path / "out" / f"seed-{seed}" / "scores.csv" for seed in (0, 1)]
    of_tables = call("weights", *tables, "--out", tmp_path / "w.json")
    assert of_tables.stderr.count("write the column in one scale") == len(told), of_tables.output
