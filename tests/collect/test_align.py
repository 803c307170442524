from pathlib import Path

import pytest

from cotbal.collect.align import align
from cotbal.collect.found import Found
from cotbal.collect.source import Source

ITEMS = {"10": 1.0, "9": 0.0, "b": 1.0}


def found(items=ITEMS, score=None, **more):
    return Found((Path("f"),), score, items, **more)


def aligned(better="higher", **by_run):
    return align(Source("vqa", "csv", "f", "m", better), by_run)


def test_items_come_in_the_order_of_their_ids_whatever_the_files_have():
    reversed_items = dict(reversed(ITEMS.items()))
    got = aligned(mini=found(), vqa=found(reversed_items))
    assert got.items["mini"] == got.items["vqa"] == [0.0, 1.0, 1.0]
    assert got.scores["mini"] == 2 / 3


@pytest.mark.parametrize("score", [2 / 3, 0.6667, 0.67, 0.667])
def test_a_score_within_its_own_rounding_is_the_mean_of_the_items(score):
    assert aligned(mini=found(score=score)).scores == {"mini": 2 / 3}


@pytest.mark.parametrize("score", [0.66, 0.6668, 0.7, 0.5, 1.0, 66.67, 66.7])
def test_another_score_is_refused(score):
    with pytest.raises(ValueError, match=r"task 'vqa', run 'mini': f gives the score .* items=no"):
        aligned(mini=found(score=score))


def test_a_score_in_percent_makes_the_items_percent_in_every_run():
    got = aligned(mini=found(score=66.67, percent=True), vqa=found({**ITEMS, "9": 1.0}, 100.0, percent=True))
    assert got.items["mini"] == [0.0, 100.0, 100.0]
    assert got.scores == {"mini": pytest.approx(200 / 3), "vqa": 100.0}


def test_a_tool_that_gives_percent_may_have_given_shares():
    for score in (0.667, None):
        assert aligned(mini=found(score=score, percent=True)).items["mini"] == [0.0, 1.0, 1.0]


def test_shares_in_one_run_and_percent_in_another_are_refused():
    with pytest.raises(ValueError, match=r"run 'vqa': f gives the score 0.667"):
        aligned(mini=found(score=66.67, percent=True), vqa=found(score=0.667, percent=True))
    # 0 is 0 in both.
    zero = dict.fromkeys(ITEMS, 0.0)
    assert (
        aligned(mini=found(zero, 0.0, percent=True), vqa=found(score=66.67, percent=True)).scores["vqa"] > 1
    )


def test_scores_of_other_numbers_of_items_are_refused():
    """A trial with --limit in a run's folder: without items nothing else tells it."""
    words = (
        r"task 'vqa': expected scores of the same items .* got 500 items in run 'a' \(f\) and 8 in 'b' \(f\)"
    )
    with pytest.raises(ValueError, match=words):
        aligned(mini=found(None, 1.0), a=found(None, 1.5, number=500), b=found(None, 1.2, number=8))
    alike = {run: found(None, 1.0, number=500) for run in ("a", "b")}
    assert aligned(mini=found(None, 1.0), **alike).scores == dict.fromkeys(("mini", "a", "b"), 1.0)


def test_scores_without_items_are_taken_as_they_are():
    got = aligned(mini=found(None, 101.5), vqa=found(None, 99.0))
    assert (got.scores, got.items, got.images) == ({"mini": 101.5, "vqa": 99.0}, {}, [])


def test_items_that_are_not_wanted_leave_their_mean():
    for score in (None, 0.67):
        got = align(Source("vqa", "csv", "f", "m", "higher", items=False), {"mini": found(score=score)})
        assert (got.scores, got.items, got.images) == ({"mini": 2 / 3}, {}, [])


def test_an_item_without_an_image_stands_by_itself_even_if_named_like_one():
    got = aligned(mini=found({"x": 1.0, "y": 0.0, "z": 0.0}, images={"x": "item y", "z": "item y"}))
    assert len(set(got.images)) == 2
    assert got.images[0] == got.images[2]


def test_items_without_an_image_in_two_sets_are_two():
    runs = {"mini": found({"x": 1.0, "y": 0.0}, images={"x": "a"})}
    first, second = (align(Source("vqa", "csv", name, "m", "higher"), runs).images for name in "fg")
    assert first[0] == second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize(
    ("better", "says", "transform"),
    [
        (None, True, ""),
        ("higher", None, ""),
        ("higher", True, ""),
        ("reciprocal", None, "reciprocal"),
        ("complement:100", False, "complement: 100.0"),
    ],
)
def test_a_direction_is_declared_by_the_file_or_the_user(better, says, transform):
    assert aligned(better, mini=found(higher_is_better=says)).transform == transform


@pytest.mark.parametrize(
    ("better", "says", "words"),
    [
        (None, [None], "no one has said whether higher is better; add better=.* or better=higher"),
        (None, [False], "the files say that lower is better; add better=complement:BOUND"),
        ("higher", [False], "better=higher, but the files say that lower is better"),
        ("reciprocal", [True], "better=reciprocal, but the files say that higher is better"),
        (None, [True, False], "the runs' files differ on whether higher is better"),
    ],
)
def test_a_direction_is_never_guessed(better, says, words):
    runs = {f"run{n}": found(higher_is_better=each) for n, each in enumerate(says)}
    with pytest.raises(ValueError, match=f"metric 'm': {words}"):
        aligned(better, **runs)
