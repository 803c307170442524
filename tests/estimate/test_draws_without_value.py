"""Draws in which a score reaches 0: what is divided by it has no interval and no verdict."""

import json

import pytest

from cotbal.estimate.resample import resample
from cotbal.estimate.scores import Scores
from cotbal.estimate.uncertainty import uncertainty


def ones(right, n=200):
    return [1.0] * right + [0.0] * (n - right)


def counted(n=200, **right):
    """A table of right-or-wrong items by run, {run: how many of n each of the tasks x, b, c has right}."""
    items = {
        run: {t: ones(k, n) for t, k in zip("xbc", counts, strict=True)} for run, counts in right.items()
    }
    rows = {run: [count / n for count in counts] for run, counts in right.items()}
    return rows["mini"], [rows[task] for task in "xbc"], items


FEW = counted(mini=[2, 80, 90], x=[4, 82, 91], b=[3, 130, 95], c=[2, 85, 150])


def test_a_full_score_that_some_draws_lose_gives_no_interval_and_no_verdict():
    found = uncertainty(Scores([*"xbc"], FEW[0], FEW[1], items=FEW[2]))
    assert found.rules["difficulty"] is found.rules["cotbal"] is None
    assert list(found.undefined) == ["x"]
    assert found.undefined["x"].startswith(
        "the full score of task 'x', by which its difficulty is divided, is 0"
    )
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["difficulty"][0] is None
    assert 0.25 < written["difficulty"][1][0] < written["difficulty"][1][1] < 0.5
    assert written["undefined"] == found.undefined


def test_a_mini_score_that_allows_no_difficulty_allows_no_interval_of_one():
    mini, probes, items = counted(mini=[0, 80, 90], x=[90, 82, 91], b=[3, 130, 95], c=[2, 85, 150])
    found = uncertainty(Scores([*"xbc"], mini, probes, items=items))
    assert found.undefined == {
        "x": "the score of task 'x' with the mini subset is 0; its difficulty needs one above 0"
    }
    assert found.rules["difficulty"] is found.rules["cotbal"] is None
    assert found.rules["contribution"] is not None
    assert [ends is None for ends in found.to_json()["difficulty"]] == [True, False, False]


def test_a_reciprocal_that_some_draws_lose_gives_no_interval():
    mini, probes, items = counted(mini=[30, 80, 90], x=[5, 82, 91], b=[28, 130, 95], c=[29, 85, 150])
    scores = Scores([*"xbc"], mini, probes, items=items, transforms={"x": "reciprocal"})
    found = uncertainty(scores, draws=4000)
    assert list(found.undefined) == ["x"]
    assert found.unidentified["x"].startswith("the reciprocal of task 'x' has no value in some draws")
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["probes"][0][0] is None
    assert written["probes"][1][0] is not None


def test_a_reciprocal_that_some_draws_of_another_probe_lose_gives_no_interval():
    """The mean over the probes without it, which is infinite there, would be too narrow on that side."""
    mini, probes, items = counted(mini=[60, 80, 90], x=[20, 82, 91], b=[5, 130, 95], c=[59, 85, 150])
    scores = Scores([*"xbc"], mini, probes, items=items, transforms={"x": "reciprocal"})
    lost = int(resample([scores]).probes[:, 1, 0].isnan().sum())
    assert 0 < lost < 50
    found = uncertainty(scores)
    assert list(found.unidentified) == ["x"]
    assert f"has no value in some draws ({lost} of 2000), where" in found.unidentified["x"]
    assert found.undefined == {}
    assert found.rules["one2all"] is found.rules["all2one"] is found.rules["cotbal"] is found.one2all is None
    assert found.rules["difficulty"] is not None


def test_a_loss_without_noise_is_told():
    right = {"mini": (200, 100), "a": (0, 100), "b": (200, 200)}
    items = {run: {"a": ones(a), "b": ones(b)} for run, (a, b) in right.items()}
    scores = Scores(["a", "b"], [1, 0.5], [[0, 0.5], [1, 1]], items=items)
    told = "V(a + mini) - V(mini) of task 'a' is -1, expected > 0"
    assert uncertainty(scores).unidentified == {"a": told}


def test_a_denominator_that_is_just_0_in_a_draw_takes_no_verdict_with_it():
    """A few draws of 2000 have none of the six items of twelve that an own probe gains."""
    mini, probes, items = counted(12, mini=[2, 2, 2], x=[8, 1, 1], b=[1, 8, 1], c=[1, 1, 8])
    scores = Scores([*"xbc"], mini, probes, items=items)
    gaps = resample([scores]).probes.diagonal(dim1=1, dim2=2) - resample([scores]).mini
    assert 0 < (gaps == 0).any(1).sum() < 10
    found = uncertainty(scores)
    assert found.unidentified == {}
    assert found.rules["all2one"].is_noise
    assert found.rules["all2one"].larger.sum().item() == pytest.approx(4.5)
    json.dumps(found.to_json(), allow_nan=False)
