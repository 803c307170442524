"""Our losses in a training step of a small LLaVA."""

import json
import sys
from dataclasses import replace
from itertools import count

import pytest
from torch import Tensor

from benchmarks import whole_step
from benchmarks.inputs import LossInputs
from benchmarks.logits_providers import ours


def test_our_losses_in_a_step_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["whole_step", "--tiny", "--device", "cpu", "--json"])
    whole_step.main()
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["ours"]]
    assert {row["level"] for row in rows} == {"logits", "linear"}
    assert all(row["right"] for row in rows)


def test_a_loss_that_fails_while_it_is_timed_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has trained the model by then, and the next is held against the first weights."""
    own, calls = ours("cotbal kept", inplace=False), count()

    def fail_at_last(inputs: LossInputs) -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("out of something")
        return own.run(inputs)

    failing = replace(own, name="rival", run=fail_at_last, ours=False)
    monkeypatch.setattr(
        whole_step, "find_providers", lambda level, _: ([failing, own] * (level == "logits"), [])
    )
    # Weights that two steps move by more than rounding.
    monkeypatch.setattr(whole_step, "LEARNING_RATE", 0.1)
    rival, right = whole_step.measure("cpu", whole_step.SIZES["tiny"])["rows"]
    assert rival["message"] == "RuntimeError: out of something"
    assert right["right"], right
