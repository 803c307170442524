"""What the items and seeds of a comparison cannot show is told."""

import pytest

from cotbal.compare import Finals, Model, compare
from tests.compare.test_comparison import COLUMNS, drawn, row_of


@pytest.mark.parametrize("right", [0.0, 0.1, 1.0])
def test_items_that_are_all_alike_are_not_taken_for_a_sure_score(right):
    """As of a method that gets every answer wrong, whose interval is a point."""
    finals = drawn()
    ours = finals.models["EW"][0]
    items = ours.items | {"a": [right] * 60}
    models = {**finals.models, "EW": {0: Model({**ours.scores, "a": right}, items)}}
    told = [line for line in compare(Finals(COLUMNS, models))["statements"] if line.startswith("Every item")]
    assert [line.partition(":")[0] for line in told] == ["Every item scored alike for EW on a"]
    assert not any(line.startswith("Every item") for line in compare(finals)["statements"])


def test_one_model_under_all_seeds_shows_no_noise_between_trainings():
    """As that of equal weights which mode cheap starts from: only its evaluation is made again."""
    finals = drawn(seeds=(0, 1))
    for folders, told in ((("ew", "ew"), ["EW"]), (("ew0", "ew1"), []), ((None, None), [])):
        scored = finals.models["EW"].items()
        models = {
            seed: Model(model.scores, model.items, {"models": {f"seed {seed}/equal": folders[seed]}})
            for seed, model in scored
        }
        content = compare(Finals(COLUMNS, {**finals.models, "EW": models}))
        assert content["one_training"] == told
        line = "EW is one training under all 2 seeds: another of it may differ by more than"
        assert sum(each.startswith(line) for each in content["statements"]) == len(told)
    assert compare(drawn())["one_training"] == []


def test_a_test_of_one_item_leaves_the_scores_without_intervals():
    """As in a trial of the whole suite: its trainings are done, and the table is made."""
    content = compare(drawn(n=1, chance=1.0))
    assert content["no_intervals"] == "a was scored on one item"
    assert row_of(content, "CoTBal")["delta_i"] == 0
