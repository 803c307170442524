"""The intervals of scores by share of the data."""

import pytest
import torch

from cotbal.compare import Rungs, shares_content

N = 200


def spans(repeat=1, n=N, **clusters):
    """The intervals of the ratio at the lower share: items of a generator, each `repeat` times."""
    generator = torch.Generator().manual_seed(0)
    items = (torch.rand(2, n, generator=generator) < torch.tensor([[0.3], [0.6]])).double().repeat(1, repeat)
    rungs = Rungs({"mini": 0.1, "full": 1.0}, {"a": "EM"}, {"a": ""}, {"a": [items.mean(1).tolist()]})
    rungs.items["a"] = [items.tolist()]
    rungs.clusters.update(clusters)
    return shares_content(rungs)["tasks"]["a"]["relative_intervals"]


def width(intervals):
    return intervals[0][1] - intervals[0][0]


def test_items_that_belong_together_are_drawn_together():
    numbers = list(range(N)) * 4
    assert width(spans(4)) == pytest.approx(width(spans()) / 2, rel=0.15)
    assert width(spans(4, a=[[numbers, numbers]])) == pytest.approx(width(spans()), rel=0.1)


def test_other_clusters_are_other_items_and_allow_no_intervals():
    assert spans(a=[[None, list(range(N))]]) is None
    assert spans(a=[[None, None]]) == spans()


def test_one_item_or_one_cluster_shows_no_noise():
    rungs = Rungs({"mini": 0.1, "full": 1.0}, {"a": "EM"}, {"a": ""}, {"a": [[0.5, 1.0]]})
    rungs.items["a"] = [[[0.5], [1.0]]]
    assert shares_content(rungs)["tasks"]["a"]["relative_intervals"] is None
    assert spans(a=[[[0] * N] * 2]) is None


def test_intervals_are_those_of_a_ratio_of_two_means():
    n = 8000
    relative = [(1 - p) / (n * p) for p in (0.3, 0.6)]
    assert width(spans(n=n)) == pytest.approx(2 * 1.96 * 0.5 * sum(relative) ** 0.5, rel=0.04)


def test_several_seeds_are_their_mean_and_other_numbers_of_items_allow_no_intervals():
    scores = {"a": [[0.25, 0.625], [0.5, 0.875]]}
    items = [[[0.0, 0.5], [0.5, 0.75]], [[0.5, 0.5], [0.75, 1.0]]]
    rungs = Rungs({"mini": 0.1, "full": 1.0}, {"a": "EM"}, {"a": ""}, scores, {"a": items})
    found = shares_content(rungs)
    assert (found["seeds"], found["tasks"]["a"]["scores"]) == (2, [0.375, 0.75])
    assert found["tasks"]["a"]["relative_intervals"] is not None
    items[0][0] = [0.25]
    assert shares_content(rungs)["tasks"]["a"]["relative_intervals"] is None
    with pytest.raises(ValueError, match="no task has a score for every share"):
        shares_content(Rungs({}, {}, {}))


def test_a_task_that_scores_nothing_on_all_its_data_has_no_ratios():
    scores = {"a": [[0.2, 0.3, 0.0]]}
    rungs = Rungs({"mini": 0.1, "1/2": 0.5, "full": 1.0}, {"a": "EM"}, {"a": ""}, scores, {"a": [[None] * 3]})
    assert shares_content(rungs)["tasks"]["a"]["relative"] is None
