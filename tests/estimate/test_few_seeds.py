"""Intervals over a few seeds hold the truth as often as they state, from three seeds on."""

import pytest
import torch

from cotbal.compare import Column, Finals, Model, compare
from cotbal.estimate.few_seeds import few_seeds, stretched
from cotbal.estimate.resample import drawn_means, seed_shares
from cotbal.estimate.uncertainty import _rule_noise, uncertainty
from tests.estimate.coverage import World

ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])
def test_intervals_of_seeds_alone_hold_the_truth_as_often_as_they_state(n_seeds):
    trainings = torch.randn(n_seeds, 1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = seed_shares(n_seeds, 1000, ("seeds",)) @ trainings
    assert torch.allclose(drawn.mean(0), trainings.mean(0), atol=0.4)
    low, high = stretched(drawn, drawn, n_seeds, 0.95).quantile(ENDS, dim=0)
    assert ((low <= 0) & (high >= 0)).double().mean().item() == pytest.approx(0.95, abs=0.02)


def test_noise_of_items_alone_is_hardly_stretched_and_that_of_one_seed_not_at_all():
    drawn = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert stretched(drawn, None, 1, 0.95) is drawn
    assert torch.allclose(stretched(drawn, drawn[:, :1] * 0.1, 3, 0.95), drawn, atol=1e-3)
    # What has no noise at all keeps its value.
    still = torch.full((100, 2), 0.7, dtype=torch.float64)
    assert torch.allclose(stretched(still, still, 2, 0.95), still)


def test_intervals_of_an_estimate_are_wider_than_the_draws_of_so_few_seeds():
    generator = torch.Generator().manual_seed(3)
    tables = World.random(2, 20.0, generator).tables(generator, 3, 0.2)
    found = uncertainty(tables, over=["seeds"], draws=400)
    by_seed = torch.stack([table.mini for table in tables])
    # Student's t of 2 degrees of freedom, and no item's noise.
    error = by_seed.std(0) / 3**0.5
    assert torch.allclose((found.mini[1] - found.mini[0]) / 2 / 4.303, error, rtol=0.15)


def test_the_same_models_under_three_seeds_are_no_more_noisy_than_one():
    generator = torch.Generator().manual_seed(0)
    table = World.random(3, 8.0, generator).table(generator)
    one, three = uncertainty(table), uncertainty([table] * 3)
    for rule, noise in one.rules.items():
        assert torch.allclose(noise.low, three.rules[rule].low)
        assert noise.is_noise == three.rules[rule].is_noise


def test_a_verdict_on_all_weights_counts_how_much_student_has_beyond_that_of_one():
    noise = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.01
    # Of 3 weights the largest of 95 % is 2.39 standard errors away; t of 2 degrees of freedom has 7.6 there.
    for errors, verdict in ((5.0, True), (7.0, True), (8.5, False)):
        draws = 1 + noise + 0.01 * errors * torch.tensor([1.0, -1.0, 0.0])
        assert _rule_noise(draws, noise, 3, 0.95).is_noise is verdict
    still = torch.ones(200, 3, dtype=torch.float64)
    assert _rule_noise(still, still, 3, 0.95).is_noise


def test_intervals_of_a_comparison_are_as_wide_as_so_few_seeds_ask_for():
    scores = {"STL": [0.50, 0.51, 0.52], "A": [0.60, 0.64, 0.62]}
    models = {
        name: {s: Model({"t": score}, {"t": [score] * 4}) for s, score in enumerate(of_seeds)}
        for name, of_seeds in scores.items()
    }
    base, ours = compare(Finals((Column("t"),), models))["methods"]
    for row, error in ((base, 0.01), (ours, 0.02)):
        low, high = row["score_intervals"]["t"]
        assert (high - low) / 2 / 4.303 == pytest.approx(error / 3**0.5, rel=0.1)
    assert ours["delta_e_interval"][0] == 0


def test_means_drawn_over_seeds_alone_need_no_items_drawn():
    items = torch.rand(3, 2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = drawn_means(items, "t", draws=4000, seed=0, over=("seeds",))
    assert torch.allclose(drawn.std(0), items.mean(-1).std(0) / 3**0.5, rtol=0.05)


def test_of_two_seeds_alone_there_is_a_warning():
    (line,) = few_seeds(2)
    assert line.startswith("2 seeds: ")
    assert few_seeds(1) == few_seeds(3) == []
