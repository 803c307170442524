"""Our losses in a training step of a small LLaVA."""

import json
import sys

import pytest

from benchmarks import whole_step


def test_our_losses_in_a_step_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["whole_step", "--tiny", "--device", "cpu", "--json"])
    whole_step.main()
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["ours"]]
    assert {row["level"] for row in rows} == {"logits", "linear"}
    assert all(row["right"] for row in rows)
