"""The measures by which cheaper ways to the weights are judged."""

import pytest
import torch

from cotbal.estimate.scores import Scores
from tests.estimate import ways
from tests.estimate.ways import WAYS, Tables, agreement, costs, markdown, probes_on, spearman

TASKS = ("a", "b", "c")
SIZES = {"mini": 0.1, "1/4": 0.9, "1/2": 1.2, "1": 1.6}


def table(shift=0.0, spread=0.01):
    """A table whose weights move with `shift`, with items that all runs agree on but for their mean."""
    mini = [0.2, 0.3, 0.25]
    probes = [[0.6 + shift, 0.35, 0.3], [0.25, 0.7, 0.2], [0.3, 0.4, 0.5]]
    rows = {"mini": mini, **dict(zip(TASKS, probes, strict=True))}
    spreads = torch.linspace(-spread, spread, 20, dtype=torch.float64)
    items = {run: {t: v + spreads for t, v in zip(TASKS, row, strict=True)} for run, row in rows.items()}
    return Scores(TASKS, mini, probes, items=items)


def tables(*shifts):
    lora = {share: table(shift) for share, shift in (("1/4", 0.2), (ways.FULL, 0.1))}
    return Tables(dict(zip(ways.RUNGS, map(table, shifts), strict=True)), [0.5, 0.6, 0.7], lora)


def test_ranks_agree_and_disagree():
    one, other = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([0.3, -1.0, 0.2, 1.0])
    assert spearman(one, other) == pytest.approx(1)
    assert spearman(one, -other) == pytest.approx(-1)
    assert spearman(torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 2, 4, 3])) == pytest.approx(0.8)


def test_an_estimate_agrees_with_itself_and_not_with_a_moved_one():
    full, moved = (probes_on("1")(tables(0, 0, shift)) for shift in (0.0, 0.3))
    assert agreement(full, full) == pytest.approx([1, 1, 1, 0])
    assert agreement(moved, full)[3] == pytest.approx((moved.weights - full.weights).abs().max().item())
    assert agreement(moved, full)[3] > 0.1


def test_no_probes_is_half_ones_and_half_difficulty():
    found = WAYS["no probes: D from the equal-weight model"](tables(0, 0, 0))
    D = torch.tensor([1 - 0.2 / 0.5, 1 - 0.3 / 0.6, 1 - 0.25 / 0.7], dtype=torch.float64)
    assert found.C is None
    assert torch.allclose(found.D, D)
    assert torch.allclose(found.weights, 0.5 + 0.5 * 3 * torch.softmax(D / 0.5, 0))


@pytest.mark.parametrize(("shifts", "cost"), [((0, 0, 0.3), "to 1/2"), ((0, 0.3, 0.3), "to 1")])
def test_rungs_are_climbed_until_the_weights_stay(shifts, cost):
    way = WAYS["rungs 1/4, 1/2, 1 until the weights stay within their intervals"]
    found = way(tables(*shifts))
    assert found.cost == cost
    assert torch.equal(found.weights, probes_on("1/2" if cost == "to 1/2" else "1")(tables(*shifts)).weights)


def test_adapters_are_an_estimate_of_their_own():
    given = tables(0, 0, 0)
    assert torch.equal(WAYS["LoRA probes on all"](given).weights, probes_on("1")(tables(0, 0, 0.1)).weights)
    cheap = WAYS["LoRA probes on 1/4 for C, D from the equal-weight model"](given)
    assert torch.equal(cheap.D, WAYS["no probes: D from the equal-weight model"](given).D)
    assert not torch.equal(cheap.weights, WAYS["LoRA probes on 1/4"](given).weights)


def test_costs_add_up():
    found = costs(SIZES)
    assert found["1/4"] == pytest.approx(1.0)
    assert found["to 1"] == pytest.approx(0.1 + 0.9 + 1.2 + 1.6)
    assert found["no probes"] == 0.1
    assert found["LoRA 1"] == pytest.approx((0.1 + 1.6) * 2 / 3)
    assert found["LoRA 1/4, mini"] == pytest.approx(1.0 * 2 / 3 + 0.1)


def test_table_has_a_line_for_every_way(monkeypatch):
    monkeypatch.setattr(ways, "PERMUTATIONS", 200)
    text = markdown([tables(0.1, 0.05, 0), tables(-0.1, 0.2, 0.1)], costs(SIZES))
    lines = text.splitlines()
    assert len(lines) == 2 + 1 + len(WAYS) + 2
    assert all(line.count("|") == 8 for line in lines)
    assert "nan" not in text
