"""What intervals over a few seeds are worth, measured on seeds alone."""

import pytest
import torch

from cotbal.estimate.few_seeds import HELD, few_seeds
from cotbal.estimate.resample import seed_shares


@pytest.mark.parametrize("n_seeds", [*HELD])
def test_intervals_of_few_seeds_alone_hold_the_truth_as_seldom_as_is_told(n_seeds):
    trainings = torch.randn(n_seeds, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = seed_shares(n_seeds, 1000, 0, ("seeds",)) @ trainings
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    assert ((low <= 0) & (high >= 0)).double().mean().item() == pytest.approx(HELD[n_seeds] / 100, abs=0.02)
    (line,) = few_seeds(n_seeds)
    assert line.startswith(f"{n_seeds} seeds: ")
    assert line.endswith(f"hold the truth in some {HELD[n_seeds]} % of cases.")


def test_of_one_seed_and_of_many_there_is_another_or_no_warning():
    assert few_seeds(1) == few_seeds(6) == []
