"""Shrinkage: its laws, and that it does what it is for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotbal.estimate.resample import Draws
from cotbal.estimate.rules import estimate_weights
from cotbal.estimate.scores import Scores
from cotbal.estimate.shrinkage import Shrinkage, ShrunkSignals, shrunk_signals
from tests.estimate.coverage import World, weight_errors


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def table(z=4.0, seed=0, n_tasks=3):
    generator = torch.Generator().manual_seed(seed)
    return World.random(n_tasks, z, generator).table(generator)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_without_noise_nothing_changes(values):
    x = column(*values)
    assert torch.equal(Shrinkage.fitted(x, torch.zeros_like(x)).applied(x), x)


def test_where_all_is_noise_every_value_is_the_mean():
    x = column(0.1, 0.5, 0.9)
    assert torch.allclose(Shrinkage.fitted(x, column(1, 1, 1)).applied(x), column(0.5, 0.5, 0.5))
    # The mean counts the sure ones more: (4 * .1 + .5 + .9) / 6.
    weighted = Shrinkage.fitted(x, column(1, 2, 2)).applied(x)
    assert torch.allclose(weighted, torch.full_like(x, 0.3))


def test_equal_errors_give_the_shares_of_variance_by_hand():
    # Variance of the values 4, of the noise 1: three quarters are kept.
    x = column(-2, 0, 2)
    found = Shrinkage.fitted(x, column(1, 1, 1))
    assert torch.allclose(found.reliability, column(0.75, 0.75, 0.75))
    assert torch.allclose(found.applied(x), column(-1.5, 0, 1.5))


@given(st.integers(0, 10_000))
def test_a_value_goes_toward_the_mean_and_the_further_the_noisier(seed):
    generator = torch.Generator().manual_seed(seed)
    x, errors = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    found = Shrinkage.fitted(x, errors)
    mean = (found.shares * x).sum()
    assert bool(((found.applied(x) - mean).abs() <= (x - mean).abs() + 1e-12).all())
    order = errors.argsort()
    assert bool((found.reliability[order].diff() <= 0).all())


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_scatter_is_what_the_noise_does_not_explain(seed, n):
    generator = torch.Generator().manual_seed(seed)
    x, errors = torch.rand(2, n, generator=generator, dtype=torch.float64)
    errors += 0.05
    found = Shrinkage.fitted(x, errors)
    kept = found.reliability[0]
    tau2 = kept * errors[0] ** 2 / (1 - kept)
    w = 1 / (tau2 + errors**2)
    assert torch.allclose(found.shares, w / w.sum())
    explained = (w * (x - (w * x).sum() / w.sum()) ** 2).sum().item()
    assert explained == pytest.approx(n - 1, rel=1e-6) if tau2 > 0 else explained <= n - 1


def test_one_known_value_is_the_mean_and_a_sure_one_among_equals_is_no_trouble():
    alone = Shrinkage.fitted(column(3.0, math.nan), column(0.5, math.inf))
    assert alone.reliability.tolist() == [1, 0]
    assert alone.applied(column(3.0, math.nan)).tolist() == [3, 3]
    equal = Shrinkage.fitted(column(0.5, 0.5, 0.5), column(0, 0.1, 0.1))
    assert equal.reliability.tolist() == [1, 0, 0]
    assert equal.applied(column(0.5, 0.5, 0.5)).tolist() == [0.5, 0.5, 0.5]


def test_scores_that_move_together_have_sure_ratios():
    C = torch.tensor([[1, 0.2, -0.1], [0.5, 1, 0.3], [0.1, 0.8, 1]], dtype=torch.float64)
    D = column(0.2, 0.5, 0.7)

    def scores(full):
        mini = (1 - D) * full
        return mini, mini[..., None, :] + C * (D * full)[..., None, :]

    full = column(0.5, 0.6, 0.7)
    drawn = full * torch.empty(50, 1).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    found = ShrunkSignals.of(Scores(["a", "b", "c"], *scores(full)), Draws(*scores(drawn)))
    assert torch.allclose(found.contribution.reliability, torch.ones(6, dtype=torch.float64))
    assert torch.allclose(found.difficulty.reliability, torch.ones(3, dtype=torch.float64))


def test_a_value_that_is_not_known_becomes_the_mean_of_the_others():
    x = column(1.0, 3.0, 1e9, math.nan)
    found = Shrinkage.fitted(x, column(0, 0, math.inf, math.inf))
    assert torch.allclose(found.applied(x), column(1, 3, 2, 2))


def test_draws_are_pulled_by_the_same_shares():
    x, errors = column(0.1, 0.5, 0.9), column(0.2, 0.1, 0.4)
    found = Shrinkage.fitted(x, errors)
    assert torch.equal(found.applied(torch.stack([x, 2 * x]))[1], 2 * found.applied(x))


def test_weights_of_sure_scores_hardly_change_and_those_of_unsure_ones_come_closer():
    def spread(scores, **options):
        return torch.tensor(list(estimate_weights(scores, **options).values())).std().item()

    sure, unsure = table(z=40.0), table(z=2.0)
    assert spread(sure, shrink=True) == pytest.approx(spread(sure), rel=0.06)
    assert spread(unsure, shrink=True) < 0.9 * spread(unsure, on_unidentified="drop")


def test_off_by_default_and_the_reliabilities_are_in_the_provenance():
    scores = table()
    assert estimate_weights(scores).provenance["shrink"] is False
    kept = estimate_weights(scores, shrink=True).provenance
    assert kept["shrink"] is True
    assert len(kept["contribution_reliability"]) == 6
    assert all(0 <= each <= 1 for each in kept["difficulty_reliability"])


def test_items_that_belong_together_are_less_reliable():
    scores = table(z=6.0)
    fourfold = {run: {t: row.repeat(4) for t, row in of.items()} for run, of in scores.items.items()}
    again = Scores(scores.tasks, scores.mini, scores.probes, items=fourfold)
    numbers = {task: torch.arange(len(row)).repeat(4) for task, row in scores.items["mini"].items()}
    once, blind = shrunk_signals([scores]), shrunk_signals([again])
    clustered = Scores(scores.tasks, scores.mini, scores.probes, items=fourfold, clusters=numbers)
    seen = shrunk_signals([clustered])
    assert bool((blind.contribution.reliability >= once.contribution.reliability).all())
    assert torch.allclose(seen.contribution.reliability, once.contribution.reliability, atol=0.02)


def test_seeds_that_disagree_are_less_reliable():
    generator = torch.Generator().manual_seed(1)
    world = World.random(3, 12.0, generator)
    calm, wild = (world.tables(generator, 4, noise) for noise in (0.0, 0.3))
    assert (
        shrunk_signals(wild).contribution.reliability.mean()
        < shrunk_signals(calm).contribution.reliability.mean()
    )


def with_equal(scores, equal, items):
    items = {**scores.items, "equal": items}
    return Scores(scores.tasks, scores.mini, scores.probes, equal=equal, items=items)


def test_difficulty_of_the_equally_weighted_model_is_pulled_by_its_own_noise():
    scores = table(z=3.0)
    own = {task: scores.items[task][task] for task in scores.tasks}
    as_probes = with_equal(scores, scores.probes.diagonal(), own)
    plain, same = (estimate_weights(s, rule="difficulty", shrink=True) for s in (scores, as_probes))
    assert dict(same) == pytest.approx(dict(plain))
    # All right: without noise of its own, and another difficulty.
    sure = with_equal(scores, [1.0] * 3, {task: torch.ones_like(row) for task, row in own.items()})
    kept = [estimate_weights(s, rule="difficulty", shrink=True).provenance for s in (as_probes, sure)]
    assert kept[1]["difficulty"] != pytest.approx(kept[0]["difficulty"])
    # Its D is 1 - V(mini), as noisy as V(mini).
    noise = column(*(row.std().item() / len(row) ** 0.5 for row in scores.items["mini"].values()))
    expected = Shrinkage.fitted(1 - scores.mini, noise).reliability
    assert torch.allclose(column(*kept[1]["difficulty_reliability"]), expected, atol=0.03)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda s: Scores(s.tasks, s.mini, s.probes), {}, "items: expected the per-item scores"),
        (lambda s: s, {"precise": True}, "shrink: expected the difficulty of the probes"),
        (lambda s: Scores(s.tasks, [1.0] * 3, [[0.5] * 3] * 3), {}, "no task gains"),
        (lambda s: Scores(s.tasks, [1.0] * 3, [[1.0] * 3] * 3), {}, "no task gains"),
    ],
)
def test_what_cannot_be_shrunk_is_told(change, options, words):
    with pytest.raises(ValueError, match=words):
        estimate_weights(change(table()), shrink=True, **options)


def test_shrinkage_lowers_the_error_of_the_weights_where_scores_are_noisy():
    raw, shrunk = weight_errors(7, 1.7, n_tables=15, draws=200)
    assert shrunk < 0.75 * raw


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_tasks", [3, 7])
@pytest.mark.parametrize("z", [1.7, 3.0])
def test_shrinkage_lowers_the_error_over_many_tables(n_tasks, z):
    raw, shrunk = weight_errors(n_tasks, z, n_tables=500)
    assert shrunk < raw
