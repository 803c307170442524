import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotbal.estimate.fieller import Noise, fieller, student
from cotbal.estimate.formulas import all2one_of, contribution_of, one2all_of
from cotbal.estimate.resample import drawn_means, resample, seed_shares, stacked_items
from cotbal.estimate.rules import estimate_weights, weights_by_rule
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import pooled_scores
from cotbal.estimate.uncertainty import uncertainty
from tests.estimate.coverage import World, simulate

ONE_EACH = torch.ones(40, dtype=torch.float64)


def world(n_tasks=3, z=8.0, seed=0):
    return World.random(n_tasks, z, torch.Generator().manual_seed(seed))


def table(of=None, seed=1):
    return (of or world()).table(torch.Generator().manual_seed(seed))


def repeated(scores, times):
    """The table whose every item stands there several times, without and with the numbers that say so."""
    items = {run: {task: row.repeat(times) for task, row in of.items()} for run, of in scores.items.items()}
    numbers = {task: torch.arange(len(row)).repeat(times) for task, row in scores.items["mini"].items()}
    without = Scores(scores.tasks, scores.mini, scores.probes, items=items)
    return without, Scores(scores.tasks, scores.mini, scores.probes, items=items, clusters=numbers)


def width(found):
    noise = found.rules["cotbal"]
    return noise.high - noise.low


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def of_items(a, d):
    return fieller(a.mean(-1), d.mean(-1), [Noise.of_items(a, d, ONE_EACH)])


def test_quantiles_of_student_are_those_of_the_tables():
    tables = {
        0.9: {1: 3.0776835, 4: 1.5332063, 30: 1.3104150},
        0.975: {1: 12.7062047, 2: 4.3026527, 5: 2.5705818, 29: 2.0452296, 30: 2.0422725, 120: 1.9799304},
        0.995: {4: 4.6040949, 30: 2.7499957, 60: 2.6602830},
    }
    for probability, tabulated in tables.items():
        found = student(probability, column(*tabulated))
        assert torch.allclose(found, column(*tabulated.values()), rtol=0, atol=2e-6)
    # Between whole numbers it falls.
    assert 3.1824 < student(0.975, column(2.5)).item() < 4.3027


@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_a_ratio_is_in_the_set_where_its_defining_inequality_holds(seed, ratio):
    generator = torch.Generator().manual_seed(seed)
    a, d = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    d = d + 2 * torch.rand((), generator=generator)
    sets = of_items(a, d)
    residual = a - ratio * d
    t = student(0.975, column(39.0)).item()
    inside = residual.mean().abs() <= t * residual.std() / math.sqrt(40)
    assert bool(sets.contains(torch.tensor(ratio, dtype=torch.float64))) == bool(inside)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_seeds_alone_give_the_set_of_their_own_means(seed, n_seeds):
    generator = torch.Generator().manual_seed(seed)
    a, d = torch.randn(2, n_seeds, generator=generator, dtype=torch.float64)
    d = d + 3
    sets = fieller(a.mean(), d.mean(), [Noise.of_seeds(a, d)])
    for ratio in (-1.0, 0.0, 0.3, 2.0):
        residual = a - ratio * d
        t = student(0.975, column(n_seeds - 1)).item()
        inside = residual.mean().abs() <= t * residual.std() / math.sqrt(n_seeds)
        assert bool(sets.contains(torch.tensor(ratio, dtype=torch.float64))) == bool(inside)


def test_of_two_sources_the_noisier_one_has_its_degrees_of_freedom():
    generator = torch.Generator().manual_seed(0)
    a, d = torch.randn(2, 40, generator=generator, dtype=torch.float64) + column(1, 3)[:, None]
    items, nothing = Noise.of_items(a, d, ONE_EACH), torch.zeros((), dtype=torch.float64)
    alone, beside = of_items(a, d), fieller(a.mean(), d.mean(), [items, Noise(nothing, nothing, nothing, 2)])
    assert torch.allclose(alone.low, beside.low)
    assert torch.allclose(alone.high, beside.high)
    # The same variances from 3 seeds: twice the variance, and t between those of 2 and 39 degrees.
    seeds = Noise(items.aa, items.ad, items.dd, 2)
    both = fieller(a.mean(), d.mean(), [items, seeds])
    part = items.of_residual(a.mean(), d.mean())
    freedom = (2 * part) ** 2 / (part**2 / 39 + part**2 / 2)
    t = student(0.975, freedom).item()
    theta = both.high
    residual = (a.mean() - theta * d.mean()).abs()
    variance = items.aa - 2 * theta * items.ad + theta**2 * items.dd
    assert residual.item() == pytest.approx(t * (2 * variance).sqrt().item())


def test_the_residual_is_that_of_a_less_the_ratio_of_d():
    a, d = torch.randn(2, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    d = d + a + 2
    theta = a.mean() / d.mean()
    direct = Noise.of_items(a - theta * d, d, ONE_EACH).aa * d.mean() ** 2
    assert Noise.of_items(a, d, ONE_EACH).of_residual(a.mean(), d.mean()).item() == pytest.approx(
        direct.item()
    )


def test_a_denominator_inside_its_noise_gives_an_unbounded_set():
    d = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20)
    clear = of_items(d + 5, d + 3)
    ray = of_items(d.roll(1) + 5, d + 0.1)
    everything = of_items(d.roll(1), d)
    assert clear.bounded
    assert clear.low < 5 / 3 < clear.high
    assert not ray.bounded
    assert ray.high < ray.low < math.inf
    assert not everything.bounded
    assert everything.low == -math.inf
    assert everything.contains(torch.tensor(1e9))


def test_items_that_belong_together_count_once():
    scores = table()
    fourfold = repeated(scores, 4)
    once, blind, seen = uncertainty(scores), uncertainty(fourfold[0]), uncertainty(fourfold[1])
    assert torch.allclose(width(seen), width(once), rtol=0.1)
    assert torch.allclose(width(blind), width(once) / 2, rtol=0.15)
    C, of_once = seen.contribution, once.contribution
    assert torch.allclose(C.high, of_once.high)
    assert torch.allclose(C.low, of_once.low)


def test_relabelling_the_tasks_relabels_the_intervals():
    scores, order = table(), [2, 0, 1]
    tasks = [scores.tasks[place] for place in order]
    items = {run: scores.items[run] for run in ("mini", *tasks)}
    again = Scores(tasks, scores.mini[order], scores.probes[order][:, order], items=items)
    found, moved = uncertainty(scores), uncertainty(again)
    assert torch.allclose(moved.difficulty, found.difficulty[:, order])
    assert torch.allclose(moved.probes, found.probes[:, order][:, :, order])
    assert torch.allclose(moved.rules["cotbal"].low, found.rules["cotbal"].low[order])


def test_each_interval_holds_its_estimate_and_narrows_with_the_items():
    wide, narrow = uncertainty(table(world(z=6.0))), uncertainty(table(world(z=24.0)))
    scores = table(world(z=24.0))
    assert (narrow.probes[0] <= scores.probes).all()
    assert (scores.probes <= narrow.probes[1]).all()
    assert torch.allclose(width(narrow), width(wide) / 4, rtol=0.5)


def test_a_column_inside_its_noise_has_no_interval_of_a_weight():
    found = uncertainty(table(world(z=1.7)))
    assert found.unidentified
    assert found.rules["cotbal"] is None
    assert found.one2all is found.all2one is None
    assert found.rules["difficulty"] is not None
    # A task gives itself all, whatever the noise.
    sets = found.contribution
    assert not sets.bounded.all()
    assert sets.bounded.diagonal().all()
    assert sets.low.diagonal().tolist() == sets.high.diagonal().tolist() == [1.0] * 3


def test_a_gain_that_is_only_some_seeds_is_inside_the_noise():
    one = world(z=20.0)
    without = World(one.mini, one.probes.clone(), one.n_items)
    without.probes[0, 0] = one.mini[0] + 0.01 * (one.probes[0, 0] - one.mini[0])
    found = uncertainty([table(one, 1), table(without, 2)], draws=100)
    assert list(found.unidentified) == ["t0"]
    assert "standard errors over items and seeds" in found.unidentified["t0"]
    assert not uncertainty([table(one, 1), table(one, 2)], draws=100).unidentified


def test_ends_are_the_quantiles_of_the_level():
    scores = table()
    drawn = resample([scores], draws=500, seed=5)
    found = uncertainty(scores, level=0.5, draws=500, seed=5)
    quarters = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert torch.allclose(found.mini, torch.quantile(drawn.mini, quarters, dim=0))
    assert torch.allclose(found.probes, torch.quantile(drawn.probes, quarters, dim=0))
    C = contribution_of(drawn.mini, drawn.probes)
    for signal, mean in ((found.one2all, one2all_of(C)), (found.all2one, all2one_of(C))):
        assert torch.allclose(signal, torch.quantile(mean, quarters, dim=0))


def test_the_precise_difficulty_leaves_intervals_of_the_contribution():
    found = uncertainty(table(), precise=True)
    assert found.difficulty is None
    assert [rule for rule, noise in found.rules.items() if noise is None] == ["cotbal", "difficulty"]
    assert found.to_json()["difficulty"] is None


def test_equal_tasks_differ_by_noise_only():
    alike = World(
        torch.full((3,), 0.3, dtype=torch.float64),
        torch.full((3, 3), 0.4, dtype=torch.float64).fill_diagonal_(0.5),
        [400] * 3,
    )
    apart = World(alike.mini, alike.probes * torch.tensor([1.0, 1.3, 1.6], dtype=torch.float64), [4000] * 3)
    assert uncertainty(table(alike)).rules["cotbal"].is_noise
    assert not uncertainty(table(apart)).rules["cotbal"].is_noise
    larger = uncertainty(table(apart)).rules["cotbal"].larger
    assert torch.allclose(larger + larger.T, torch.ones(3, 3, dtype=torch.float64))
    assert larger[2, 0] > 0.99


def test_seeds_that_disagree_widen_the_intervals():
    one = world(z=20.0)
    better = World(one.mini, one.probes * 1.1, one.n_items)
    agree = uncertainty([table(one, 1), table(one, 2), table(one, 3)])
    disagree = uncertainty([table(one, 1), table(better, 2), table(one, 3)])
    assert (disagree.probes[1] - disagree.probes[0] > 1.5 * (agree.probes[1] - agree.probes[0])).all()
    items_alone = uncertainty([table(one, 1), table(better, 2), table(one, 3)], over=["items"])
    assert (items_alone.probes[1] - items_alone.probes[0] < disagree.probes[1] - disagree.probes[0]).all()
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    widths = [
        (each.contribution.high - each.contribution.low)[off_diagonal] for each in (items_alone, disagree)
    ]
    assert (2 * widths[0] < widths[1]).all()
    two = [table(one, 1), table(better, 2)]
    of_items, of_both = (
        uncertainty(two, over=over, draws=100).contribution for over in (["items"], ["items", "seeds"])
    )
    wider = ~of_both.bounded | (of_both.high - of_both.low > of_items.high - of_items.low)
    assert of_items.bounded.all()
    assert wider[off_diagonal].all()


def test_one_seed_tells_nothing_of_the_noise_between_seeds():
    scores = table()
    found = uncertainty(scores, over=["seeds"]).contribution
    assert torch.allclose(found.low, found.high)
    both, items = (uncertainty(scores, over=over).contribution for over in (["items", "seeds"], ["items"]))
    assert torch.equal(both.low, items.low)


def test_tables_of_several_seeds_pool_to_the_mean_of_scores_and_items():
    first, second = tables = [table(seed=1), table(seed=2)]
    pooled = pooled_scores(tables)
    assert torch.allclose(pooled.probes, (first.probes + second.probes) / 2)
    item = pooled.items["t0"]["t1"]
    assert torch.allclose(item, (first.items["t0"]["t1"] + second.items["t0"]["t1"]) / 2)
    assert dict(estimate_weights(tables)) == dict(estimate_weights(pooled))


def test_lower_is_better_turns_the_interval_of_a_score_around():
    scores = table()
    items = {run: {task: 1 - row for task, row in of.items()} for run, of in scores.items.items()}
    mirrored = Scores(
        scores.tasks,
        1 - scores.mini,
        1 - scores.probes,
        items=items,
        transforms=dict.fromkeys(scores.tasks, "complement: 1"),
    )
    assert torch.allclose(uncertainty(mirrored).difficulty, uncertainty(scores).difficulty)
    assert torch.allclose(uncertainty(mirrored).contribution.low, uncertainty(scores).contribution.low)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: Scores(s.tasks, s.mini, s.probes), "got none"),
        (lambda s: Scores(s.tasks, s.mini + 0.01, s.probes, items=s.items), "to be its score"),
        (lambda s: [s, table(world(n_tasks=2))], "the same tasks"),
    ],
)
def test_bad_tables_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        uncertainty(change(table()))


@pytest.mark.parametrize(
    ("option", "value"), [("level", 1.0), ("level", 0.0), ("draws", 99), ("over", ["runs"])]
)
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected"):
        uncertainty(table(), **{option: value})


def test_the_same_seed_gives_the_same_bits():
    first, second, third = (uncertainty(table(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.difficulty, second.difficulty)
    assert not torch.equal(first.difficulty, third.difficulty)


def test_json_has_a_null_for_what_is_unbounded():
    whole = uncertainty(table(world(z=1.7)))
    found = whole.to_json()
    assert found["weights"]["cotbal"] is found["one2all"] is found["all2one"] is None
    bounded = [[cell is not None for cell in row] for row in found["contribution"]]
    assert bounded == whole.contribution.bounded.tolist()
    place = whole.contribution.bounded.nonzero()[1].tolist()
    ends = [each[tuple(place)].item() for each in (whole.contribution.low, whole.contribution.high)]
    assert found["contribution"][place[0]][place[1]] == ends
    for name in ("mini", "difficulty"):
        assert torch.equal(column(*found[name]).T, getattr(whole, name))
    assert found["probes"][0][1] == whole.probes[:, 0, 1].tolist()
    known = uncertainty(table())
    for name in ("one2all", "all2one"):
        assert torch.equal(column(*known.to_json()[name]).T, getattr(known, name))


def test_intervals_hold_the_truth_as_often_as_they_say():
    tallies = simulate(3, 4.0, n_tables=100, draws=400)
    # Two standard errors of the number of tables, which are what is independent.
    assert tallies["C"].share > 0.92 - 0.05
    assert 0.92 - 0.05 < tallies["D"].share <= 1
    assert 0.92 - 0.05 < tallies["weights"].share <= 1


def test_sets_of_c_hold_the_truth_of_all_seeds():
    # Of the items alone they hold it in .82 of the cells.
    found = simulate(3, 8.0, n_tables=60, draws=100, n_seeds=3, seed_noise=0.1)
    assert found["C"].share > 0.9


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_tasks", [3, 7])
@pytest.mark.parametrize("z", [1.7, 3.0, 4.0, 8.0])
def test_coverage_over_two_thousand_tables(n_tasks, z):
    tallies = simulate(n_tasks, z, n_tables=2000)
    assert tallies["C"].share >= 0.92
    if z >= 4:
        for name in ("V", "D", "weights"):
            assert 0.92 <= tallies[name].share <= 0.98, name


@pytest.mark.full
@pytest.mark.parametrize("n_seeds", [2, 3])
def test_coverage_of_c_over_two_thousand_tables_of_several_seeds(n_seeds):
    assert simulate(3, 8.0, n_tables=2000, draws=100, n_seeds=n_seeds, seed_noise=0.1)["C"].share >= 0.92


def test_a_column_is_identified_or_not_by_its_clusters_and_not_by_its_items():
    # Four times the same items look like twice as many standard errors.
    scores, clustered = repeated(table(world(z=2.0)), 4)
    assert estimate_weights(scores).provenance["unidentified"] == []
    with pytest.raises(ValueError, match="of its standard errors"):
        estimate_weights(clustered)
    found, refused = weights_by_rule(clustered)
    assert list(found) == ["difficulty", "equal"]
    assert set(refused) == {"cotbal", "contribution", "one2all", "all2one"}


def test_one_item_or_one_cluster_shows_no_noise_and_raises():
    scores = table()
    runs = {"mini": scores.mini, **dict(zip(scores.tasks, scores.probes, strict=True))}
    one = {run: {task: [row[i]] for i, task in enumerate(scores.tasks)} for run, row in runs.items()}
    with pytest.raises(ValueError, match="expected at least 2 items of 't0'"):
        uncertainty(Scores(scores.tasks, scores.mini, scores.probes, items=one))
    together = {"t1": [0] * len(scores.items["mini"]["t1"])}
    with pytest.raises(ValueError, match="expected at least 2 items of 't1', and 2 clusters"):
        uncertainty(Scores(scores.tasks, scores.mini, scores.probes, items=scores.items, clusters=together))


@pytest.mark.parametrize("n", [2, 3])
def test_drawn_seeds_scatter_as_a_mean_of_so_many(n):
    scores = column(0.0, 1.0, 5.0)[:n]
    drawn = seed_shares(n, 40_000, ("seeds",)) @ scores
    assert drawn.var().item() == pytest.approx((scores.var() / n).item(), rel=0.03)
    assert torch.equal(seed_shares(n, 2, ("items",)), torch.full((2, n), 1 / n, dtype=torch.float64))


def test_the_draws_do_not_hang_on_how_many_are_made_at_a_time(monkeypatch):
    items = torch.rand(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = drawn_means(items, "a", draws=50, seed=0)
    monkeypatch.setattr("cotbal.estimate.resample._CHUNK", 30)
    assert torch.allclose(drawn_means(items, "a", draws=50, seed=0), whole, rtol=1e-12, atol=0)


def test_two_items_are_enough_and_one_is_not():
    drawn = drawn_means(column(0.0, 1.0)[None, None], "a", draws=1000, seed=0)
    assert drawn.unique().tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"at least 2 items of 'a', and 2 clusters .* got 1"):
        drawn_means(column(1.0)[None, None], "a", draws=10, seed=0)


def test_a_score_in_percent_is_the_mean_of_its_items_to_six_digits():
    rows = {run: {"a": column(40.0, 100.0), "b": column(0.0, 1.0)} for run in ("mini", "a", "b")}
    rows["b"]["a"] = column(0.0, 1.0)
    for off, refused in ((6e-5, False), (8e-5, True)):
        scores = Scores(("a", "b"), [70 + off, 0.5], [[70.0, 0.5], [0.5, 0.5]], items=rows)
        if refused:
            with pytest.raises(ValueError, match="expected the mean of task 'a'"):
                stacked_items([scores], "a")
        else:
            assert stacked_items([scores], "a").shape == (1, 3, 2)
