"""Weights from the mini run and an equally weighted model alone."""

import math

import pytest
import torch

from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.no_probes import TwoModels

TASKS = ["a", "b", "c"]
MINI, EQUAL = [0.2, 0.3, 0.4], [0.5, 0.4, 0.8]


def test_weights_are_half_ones_and_half_a_softmax_of_the_difficulty():
    found = TwoModels(TASKS, MINI, EQUAL).weights(temperature=0.7, alpha=0.3, fixed={"chat": 1.5})
    D = [1 - 0.2 / 0.5, 1 - 0.3 / 0.4, 1 - 0.4 / 0.8]
    total = sum(math.exp(value / 0.7) for value in D)
    expected = [0.3 + 0.7 * 3 * math.exp(value / 0.7) / total for value in D]
    assert [found[task] for task in TASKS] == pytest.approx(expected)
    assert found["chat"] == 1.5
    assert sum(expected) == pytest.approx(3)
    assert found.provenance == {
        "tasks": TASKS,
        "difficulty": pytest.approx(D),
        "mode": "no-probes",
        "scores": {"mini": MINI, "equal": EQUAL},
        "transforms": {},
    }


def test_that_is_not_the_rule_called_difficulty_but_cotbal_where_contributions_are_equal():
    # Every probe lifts each other task by half of what that task's own probe gives it: all of C is 1/2.
    gains = torch.tensor(EQUAL) - torch.tensor(MINI)
    probes = torch.tensor(MINI) + gains * (0.5 + 0.5 * torch.eye(3))
    scores = Scores(TASKS, MINI, probes)
    found = TwoModels(TASKS, MINI, EQUAL).weights()
    assert dict(found) == pytest.approx(dict(estimate_weights(scores)), abs=1e-6)
    assert found["a"] < estimate_weights(scores, rule="difficulty")["a"]


def test_where_lower_is_better_the_score_is_turned():
    turned = TwoModels(TASKS, [0.8, 0.3, 0.4], [0.5, 0.4, 0.8], transforms={"a": "complement: 1.0"})
    assert turned.difficulty().tolist() == pytest.approx([1 - 0.2 / 0.5, 0.25, 0.5])


def test_table_is_read_back_and_is_no_table_of_probes(tmp_path):
    first = TwoModels(TASKS, MINI, EQUAL, transforms={"b": "complement: 1.0"})
    path = first.to_csv(tmp_path / "scores.csv")
    again = TwoModels.from_csv(path)
    assert (tuple(again.tasks), again.mini, again.equal) == (tuple(TASKS), MINI, EQUAL)
    assert again.transforms == first.transforms
    with pytest.raises(ValueError, match="this is a table of mode no-probes"):
        Scores.from_csv(path)
    path = Scores(TASKS, MINI, torch.eye(3)).to_csv(tmp_path / "probes.csv")
    assert TwoModels.from_csv(path) is None
    path.write_text("run,a,b,c\nmini,1,1,1\nb,1,1,1\nequal,1,1,1\n")
    with pytest.raises(ValueError, match="missing rows: a, c"):
        TwoModels.from_csv(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("equal,inf,0.5\n", "run 'equal', task 'a': expected a finite score, got inf"),
        ("equal,0.4,0.5\ntransform,,negate: 1\n", r"transforms\['b'\]: expected 'reciprocal'"),
        ("equal,0.4,0.5\ntransform,,complement\n", r"transforms\['b'\]: expected 'reciprocal'"),
        (f"equal,{'9' * 200_000},0.5\n", "field larger than field limit"),
    ],
)
def test_a_row_that_is_no_score_or_no_transform_is_refused_by_its_file(tmp_path, row, message):
    path = tmp_path / "scores.csv"
    path.write_text(f"run,a,b\nmini,0.2,0.4\n{row}")
    with pytest.raises(ValueError, match=f"scores.csv: {message}"):
        TwoModels.from_csv(path)


@pytest.mark.parametrize("scores", [([0.0, 0.3, 0.4], EQUAL), (MINI, [0.0, 0.4, 0.8])])
def test_score_that_is_not_above_zero_is_told_with_its_task(scores):
    with pytest.raises(ValueError, match="task 'a': the difficulty needs scores > 0"):
        TwoModels(TASKS, *scores).weights()


def drawn(generator, chances, count):
    return (torch.rand(len(chances), count, generator=generator) < torch.tensor(chances)[:, None]).double()


def test_intervals_hold_the_true_weights_as_often_as_they_say():
    generator = torch.Generator().manual_seed(3)
    truth = TwoModels(TASKS, MINI, EQUAL).weights()
    inside = 0
    for seed in range(150):
        rows = {"mini": drawn(generator, MINI, 400), "equal": drawn(generator, EQUAL, 400)}
        items = {run: dict(zip(TASKS, row.tolist(), strict=True)) for run, row in rows.items()}
        means = [row.mean(1).tolist() for row in rows.values()]
        spans = TwoModels(TASKS, *means, items=items).intervals(draws=300, seed=seed)
        inside += sum(low <= truth[t] <= high for t, (low, high) in zip(TASKS, spans.tolist(), strict=True))
    # 450 of them; the three of a table hang together, hence four standard errors of 150.
    assert abs(inside / 450 - 0.95) < 4 * (0.95 * 0.05 / 150) ** 0.5


def test_pairing_narrows_the_intervals_and_missing_or_other_items_are_told():
    generator = torch.Generator().manual_seed(0)
    luck = torch.rand(3, 400, generator=generator)
    rows = {"mini": luck < torch.tensor(MINI)[:, None], "equal": luck < torch.tensor(EQUAL)[:, None]}
    items = {run: dict(zip(TASKS, row.double().tolist(), strict=True)) for run, row in rows.items()}
    means = [row.double().mean(1).tolist() for row in rows.values()]
    together = TwoModels(TASKS, *means, items=items).intervals()
    shuffled = {"mini": items["mini"], "equal": {t: v[::-1] for t, v in items["equal"].items()}}
    apart = TwoModels(TASKS, *means, items=shuffled).intervals()
    assert (together.diff(dim=1) < apart.diff(dim=1)).all()
    # The same items four times over know no more than once.
    fourfold = {run: {t: v * 4 for t, v in of_run.items()} for run, of_run in items.items()}
    numbers = {t: list(range(400)) * 4 for t in TASKS}
    clustered = TwoModels(TASKS, *means, items=fourfold, clusters=numbers).intervals()
    assert torch.allclose(clustered.diff(dim=1), together.diff(dim=1), rtol=0.1)
    with pytest.raises(ValueError, match="expected those of task 'a' in mini and equal"):
        TwoModels(TASKS, *means, items={"mini": items["mini"]}).intervals()
    with pytest.raises(ValueError, match="expected the score of task 'a' to be the mean of its items"):
        TwoModels(TASKS, MINI, EQUAL, items=items).intervals()


def test_level_is_that_of_the_interval():
    generator = torch.Generator().manual_seed(0)
    rows = {"mini": drawn(generator, MINI, 400), "equal": drawn(generator, EQUAL, 400)}
    items = {run: dict(zip(TASKS, row.tolist(), strict=True)) for run, row in rows.items()}
    models = TwoModels(TASKS, *(row.mean(1).tolist() for row in rows.values()), items=items)
    wide, narrow = (models.intervals(level=level, draws=8000).diff(dim=1) for level in (0.95, 0.6827))
    # Two standard errors against one.
    assert torch.allclose(wide / narrow, torch.full_like(wide, 1.96), atol=0.15)


def test_seeds_are_pooled_by_their_means_with_the_items_that_all_have():
    items = [
        {"mini": {t: [k, k + 1.0] for t in TASKS}, "equal": {t: [1.0, k] for t in TASKS}} for k in (0.0, 2.0)
    ]
    first, second = (
        TwoModels(TASKS, [m + k for m in MINI], [e - k for e in EQUAL], of_seed)
        for k, of_seed in zip((0.0, 0.2), items, strict=True)
    )
    both = TwoModels.pooled([first, second])
    assert both.mini == pytest.approx([m + 0.1 for m in MINI])
    assert both.equal == pytest.approx([e - 0.1 for e in EQUAL])
    assert both.items == {"mini": {t: [1.0, 2.0] for t in TASKS}, "equal": {t: [1.0, 1.0] for t in TASKS}}
    assert TwoModels.pooled([first]) is first
    bare = TwoModels(TASKS, MINI, EQUAL, {"mini": items[1]["mini"]})
    assert set(TwoModels.pooled([first, bare]).items) == {"mini"}
    with pytest.raises(ValueError, match="tasks"):
        TwoModels.pooled([first, TwoModels(["a", "b", "d"], MINI, EQUAL)])


def test_clusters_that_do_not_fit_the_items_are_refused():
    items = {run: {t: [0.0, 1.0, 1.0] for t in TASKS} for run in ("mini", "equal")}
    with pytest.raises(ValueError, match="clusters"):
        TwoModels(TASKS, [2 / 3] * 3, [2 / 3] * 3, items, {"a": [0, 1]})


def test_a_full_score_that_some_draws_lose_gives_no_intervals_and_names_its_task():
    right = {"mini": [2, 60, 80], "equal": [4, 80, 160]}
    items = {
        run: {task: [1.0] * n + [0.0] * (200 - n) for task, n in zip(TASKS, counts, strict=True)}
        for run, counts in right.items()
    }
    models = TwoModels(TASKS, *([n / 200 for n in counts] for counts in right.values()), items=items)
    assert models.intervals() is None
    assert list(models.undefined()) == ["a"]


def of_seed(shift):
    """Right-or-wrong items of 200; those of the mini run moved."""
    items = {
        run: {
            task: [1.0] * round(200 * v) + [0.0] * round(200 * (1 - v))
            for task, v in zip(TASKS, row, strict=True)
        }
        for run, row in (("mini", [value + shift for value in MINI]), ("equal", EQUAL))
    }
    means = {run: [sum(values) / 200 for values in of_run.values()] for run, of_run in items.items()}
    return TwoModels(TASKS, means["mini"], means["equal"], items)


def test_seeds_count_in_the_intervals_and_the_one_equally_weighted_model_as_much_as_the_mini_run():
    alone, again = of_seed(0.0), TwoModels.pooled([of_seed(0.0)] * 3)
    assert alone.by_seed == ()
    assert torch.allclose(again.intervals(), alone.intervals())
    moved = TwoModels.pooled([of_seed(shift) for shift in (-0.05, 0.0, 0.05)])
    assert moved.equal_is_one_training
    D = moved._drawn_difficulty(4000, 0, ("seeds",))
    # D = 1 - mini / equal: the mean mini run has a standard error of .05 / sqrt(3), one training .05.
    mini, equal = torch.tensor(MINI), torch.tensor(EQUAL)
    error = 0.05 * (1 / 3 + (mini / equal) ** 2) ** 0.5 / equal
    assert torch.allclose(D[:, 1:].std(0).float(), error[1:], rtol=0.15)
    width, narrow = (each.intervals().diff(dim=1) for each in (moved, alone))
    assert bool((width > narrow).all())
    other = TwoModels.pooled([of_seed(0.0), TwoModels(TASKS, MINI, [0.6, 0.5, 0.7])])
    assert not other.equal_is_one_training


def test_scores_that_a_bound_makes_negative_are_named_as_measured_with_the_bound():
    pair = TwoModels(TASKS, [60, 0.3, 0.4], [21, 0.4, 0.8], transforms={"a": "complement: 1"})
    told = (
        "got -59 .* and -20 with equal weights; they are 1 - m of the measured 60 and 21: give a bound above"
    )
    with pytest.raises(ValueError, match=told):
        pair.difficulty()
