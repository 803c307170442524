"""What `cotbal run` prints of an outcome."""

from cotbal.cli.run import _print
from cotbal.project.outcome import Outcome
from cotbal.runs.plan import Plan
from cotbal.weights import TaskWeights


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
