import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotbal.estimate.scores import Scores
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all, unidentified
from tests.estimate.tables import example, items, permuted, score_tables

NAN = math.nan


def test_every_cell_of_the_contribution_is_equation_3():
    table = Scores(["a", "b"], mini=[1.0, 2.0], probes=[[3.0, 1.0], [6.0, 6.0]])
    assert contribution(table).tolist() == [[1.0, -0.25], [2.5, 1.0]]


@given(score_tables())
def test_the_means_over_all_tasks_are_equal(scores):
    C = contribution(scores)
    assert one2all(C).mean().item() == pytest.approx(all2one(C).mean().item(), rel=1e-9, abs=1e-9)


@given(score_tables())
def test_the_means_leave_the_diagonal_out(scores):
    C = contribution(scores)
    n_tasks = len(C)
    assert C.diagonal().tolist() == [1.0] * n_tasks
    assert one2all(C).tolist() == pytest.approx(((C.sum(1) - 1) / (n_tasks - 1)).tolist(), abs=1e-9)
    assert all2one(C).tolist() == pytest.approx(((C.sum(0) - 1) / (n_tasks - 1)).tolist(), abs=1e-9)


@given(score_tables(), st.randoms())
def test_relabelling_the_tasks_relabels_the_signals(scores, rng):
    order = rng.sample(range(len(scores.tasks)), len(scores.tasks))
    C, again = contribution(scores), contribution(permuted(scores, order))
    assert torch.equal(again, C[order][:, order])
    assert torch.equal(difficulty(permuted(scores, order)), difficulty(scores)[order])


@given(score_tables(), st.floats(0.01, 100))
def test_the_unit_of_the_scores_does_not_matter(scores, unit):
    scaled = Scores(scores.tasks, unit * scores.mini, unit * scores.probes)
    assert contribution(scaled).flatten().tolist() == pytest.approx(
        contribution(scores).flatten().tolist(), rel=1e-6
    )
    assert difficulty(scaled).tolist() == pytest.approx(difficulty(scores).tolist())


@given(score_tables())
def test_the_complement_is_the_mirrored_score(scores):
    mirrored = Scores(
        scores.tasks,
        2 - scores.mini,
        2 - scores.probes,
        transforms=dict.fromkeys(scores.tasks, "complement: 2"),
    )
    assert contribution(mirrored).flatten().tolist() == pytest.approx(
        contribution(scores).flatten().tolist(), rel=1e-6
    )
    assert difficulty(mirrored).tolist() == pytest.approx(difficulty(scores).tolist())


@given(score_tables())
def test_the_reciprocal_of_the_reciprocal_is_the_score(scores):
    inverted = Scores(
        scores.tasks, 1 / scores.mini, 1 / scores.probes, transforms=dict.fromkeys(scores.tasks, "reciprocal")
    )
    assert contribution(inverted).flatten().tolist() == pytest.approx(
        contribution(scores).flatten().tolist(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("mini", "own"),
    [(0.5, 0.5), (0.5, 0.25), (0.5, math.nextafter(0.5, 1)), (800.0, math.nextafter(800, 801))],
)
def test_a_column_whose_denominator_is_not_positive_raises(mini, own):
    table = Scores(["a", "b"], mini=[0.25, mini], probes=[[0.5, 0.5], [0.25, own]])
    with pytest.raises(
        ValueError,
        match=r"V\(b \+ mini\) - V\(mini\) of task 'b' .* expected > 0.*in a YAML `on_unidentified: drop`",
    ):
        contribution(table)
    assert list(unidentified(table)) == ["b"]


def test_dropping_leaves_the_column_out_of_the_means():
    C = contribution(example(), on_unidentified="drop")
    expected = torch.tensor([[1, NAN, 0.25], [0.25, 1, -0.25], [-0.5, NAN, 1]], dtype=torch.float64)
    assert torch.equal(C.isnan(), expected.isnan())
    assert torch.equal(C.nan_to_num(9), expected.nan_to_num(9))
    assert one2all(C).tolist() == [0.25, 0.0, -0.5]
    # b takes the mean of the identified columns, -0.125 and 0.
    assert all2one(C).tolist() == [-0.125, -0.0625, 0.0]
    # D of the dropped task is kept.
    assert difficulty(example()).tolist() == pytest.approx([2 / 3, 0.0, 0.8])


def test_a_task_with_no_other_identified_column_gets_the_mean_of_the_rest():
    C = torch.tensor([[1, NAN, NAN], [0.5, 1, NAN], [0.25, NAN, 1]], dtype=torch.float64)
    assert one2all(C).tolist() == [0.375, 0.5, 0.25]
    assert all2one(C).tolist() == [0.375, 0.375, 0.375]


@pytest.mark.parametrize("mean", [one2all, all2one])
def test_no_identified_column_raises(mean):
    with pytest.raises(ValueError, match="no task's column is identified"):
        mean(torch.full((3, 3), NAN).fill_diagonal_(1.0))


@pytest.mark.parametrize("mean", [one2all, all2one])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4,)])
def test_the_means_need_a_square_table_of_two_tasks(mean, shape):
    with pytest.raises(ValueError, match="square table of at least 2 tasks"):
        mean(torch.ones(shape))


# With 100 items of spread 0.1 the standard error is 0.01005.
@pytest.mark.parametrize(("gain", "reported"), [(0.0295, True), (0.0305, False)])
def test_a_gain_below_3_standard_errors_is_not_identified(gain, reported):
    table = Scores(["a", "b"], [0.25, 0.5], [[0.5, 0.5], [0.25, 0.75]], items=items(gain, noise=0.1))
    assert list(unidentified(table)) == (["a"] if reported else [])


def test_a_gain_of_exactly_3_standard_errors_is_identified():
    pair = {"mini": {"a": [0.0, 0.0]}, "a": {"a": [2.0, 4.0]}}
    assert not unidentified(Scores(["a", "b"], [0.0, 0.5], [[3.0, 0.5], [0.0, 0.75]], items=pair))


def test_the_standard_error_is_that_of_the_pairs():
    options = {"tasks": ["a", "b"], "mini": [0.25, 0.5], "probes": [[0.5, 0.5], [0.25, 0.75]]}
    paired = items(0.05, noise=0.01)
    unpaired = {"mini": paired["mini"], "a": {"a": paired["a"]["a"].roll(50)}}
    assert not unidentified(Scores(**options, items=paired))
    assert "standard errors" in unidentified(Scores(**options, items=unpaired))["a"]


def test_where_lower_is_better_the_gain_of_the_items_is_a_fall():
    options = {"mini": [0.5, 0.5], "probes": [[0.25, 0.5], [0.5, 0.75]], "transforms": {"a": "reciprocal"}}
    assert not unidentified(Scores(["a", "b"], **options, items=items(-0.2, noise=0.1)))
    assert list(unidentified(Scores(["a", "b"], **options, items=items(0.2, noise=0.1)))) == ["a"]


def test_items_without_noise_decide_by_their_gain():
    options = {"mini": [0.25, 0.5], "probes": [[0.5, 0.5], [0.25, 0.75]]}
    assert not unidentified(Scores(["a", "b"], **options, items=items(0.25, noise=0.0, n=2)))
    assert list(unidentified(Scores(["a", "b"], **options, items=items(0.0, noise=0.0, n=2)))) == ["a"]


def test_one_item_gives_no_standard_error():
    one = {"mini": {"a": [0.5]}, "a": {"a": [0.5]}}
    assert not unidentified(Scores(["a", "b"], [0.25, 0.5], [[0.5, 0.5], [0.25, 0.75]], items=one))


@pytest.mark.parametrize("choice", ["ignore", None])
def test_an_unknown_choice_for_unidentified_columns_raises(choice):
    with pytest.raises(ValueError, match="on_unidentified: expected 'raise' or 'drop'"):
        contribution(example(), on_unidentified=choice)


def test_the_precise_difficulty_comes_from_the_single_task_runs():
    table = example(single_mini=[0.5, 1, 3], single_full=[2, 4, 3])
    assert difficulty(table, precise=True).tolist() == [0.75, 0.75, 0.0]


def test_the_precise_difficulty_without_its_runs_raises():
    with pytest.raises(ValueError, match="the precise difficulty needs the single-task runs"):
        difficulty(example(), precise=True)


@pytest.mark.parametrize(("mini", "own"), [(0.0, 0.5), (-0.1, 0.5), (0.5, 0.0), (0.5, -0.1)])
def test_a_score_that_is_not_positive_raises_with_its_task(mini, own):
    table = Scores(["a", "b"], mini=[0.25, mini], probes=[[0.5, 0.5], [0.25, own]])
    with pytest.raises(ValueError, match="task 'b': the difficulty"):
        difficulty(table)


@pytest.mark.parametrize("precise", [False, True])
def test_scores_that_a_bound_makes_negative_are_named_as_measured_with_the_bound(precise):
    """As of percentages under the bound of shares."""
    alone = {"single_mini": [0.5, 60], "single_full": [0.6, 21]}
    table = Scores(
        ["a", "wer"], [0.5, 60], [[0.6, 55], [0.5, 21]], **alone, transforms={"wer": "complement: 1"}
    )
    told = (
        r"task 'wer': .* needs scores > 0, got -59 with the mini subset and -20 with the full set; they are "
        r"1 - m of the measured 60 and 21: give a bound above every measured "
        "value, such as 100 of percentages"
    )
    with pytest.raises(ValueError, match=told):
        difficulty(table, precise=precise)
    with pytest.raises(ValueError, match=r"got 0 with .*; take a larger mini subset or another metric"):
        difficulty(Scores(["a", "b"], [0.0, 0.3], [[0.6, 0.3], [0.2, 0.5]]))
