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
