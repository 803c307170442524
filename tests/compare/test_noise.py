"""What the items and seeds of a comparison cannot show is told."""

import pytest
import torch

from cotbal.compare import Column, Finals, Model, compare
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


@pytest.mark.parametrize(("n", "few"), [(3, True), (9, True), (10, False)])
def test_few_items_are_said_to_show_little(n, few):
    """Of 3 a 95 % interval holds the truth in three of four cases."""
    content = compare(drawn(n=n))
    assert content["n_items"] == dict.fromkeys(("a", "b/one", "b/two", "c"), n)
    told = [line for line in content["statements"] if line.startswith("Fewer than 10 items, or clusters of")]
    assert [f" a ({n}), b/one ({n}), b/two ({n}), c ({n}): so few show little" in line for line in told] == [
        True
    ] * few
    # Questions on three pictures.
    finals = drawn(n=30)
    of_pictures = Finals(finals.columns, finals.models, {"a": [number % 3 for number in range(30)]})
    assert compare(of_pictures)["n_items"]["a"] == 3


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


def scored(chances, generator, n=100, tasks=8):
    """Models that get an item of every task right by a method's chance."""
    source = torch.Generator().manual_seed(generator)
    columns = tuple(Column(f"t{task}") for task in range(tasks))
    models = {}
    for method, chance in chances.items():
        items = {c.name: (torch.rand(n, generator=source) < chance).double().tolist() for c in columns}
        models[method] = {0: Model({name: sum(row) / n for name, row in items.items()}, items)}
    return Finals(columns, models)


@pytest.mark.parametrize(
    ("equal", "ours", "true"),
    [(0.9, 0.6, 0.0), (0.6, 0.9, 0.0), (0.6, 0.6, 0.0), (0.9, 0.4, 100 / 3), (0.4, 0.9, -100 / 3)],
)
def test_the_interval_of_a_difference_of_losses_holds_it(equal, ours, true):
    """Noise alone makes a method as good as STL, of chance .6, lose on half of the tasks, and EW on none."""
    rows = [
        row_of(compare(scored({"STL": 0.6, "EW": equal, "ours": ours}, number), draws=400), "ours")
        for number in range(60)
    ]
    for key, truth in (("delta_e_difference_interval", true), ("delta_e_interval", max(0.0, true))):
        # Binomial(60, .95): below 52 three times in a thousand.
        assert sum(low - 1e-9 <= truth <= high + 1e-9 for low, high in (row[key] for row in rows)) >= 52
    if true:
        assert all(low > 0 or high < 0 for low, high in (row["delta_e_difference_interval"] for row in rows))


def test_methods_that_lose_in_hardly_a_draw_do_not_differ_in_their_losses():
    """Draws of several seeds are stretched about their mean, which lies above the many that are 0."""
    models = {}
    for seed in range(3):
        finals = scored({"STL": 0.6, "EW": 0.95, "ours": 0.86 - 0.05 * seed}, seed, n=200)
        for method, by_seed in finals.models.items():
            models.setdefault(method, {})[seed] = by_seed[0]
    row = row_of(compare(Finals(finals.columns, models)), "ours")
    assert row["delta_e_interval"] == [0, 0]
    assert row["delta_e_difference_interval"][1] == 0
