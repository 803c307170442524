"""Each rule against its definition in plain Python, over random runs, and the laws that all of them keep."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from cotbal.balancing import DWA, RLW, TLA, IGBv1, StaticWeights, Weighting
from tests.balancing import oracle
from tests.balancing.histories import NAMES, History, histories
from tests.balancing.rules import all_rules, own_rules

# Weights are rounded once to fp32 and lie in 0..N.
ROUNDING = 1e-6


@given(histories(), st.integers(1, 4), st.sampled_from([0.3, 2.0]))
def test_dwa_is_its_definition_in_every_step(history: History, window: int, temperature: float) -> None:
    steps, n_tasks = history.steps(), len(history.tasks)
    weights = history.play(DWA(window, temperature).bind(history.tasks))
    for step, actual in enumerate(weights):
        expected = oracle.dwa(steps[:step], n_tasks, window, temperature)
        assert actual.tolist() == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


@given(histories(), st.integers(0, 4), st.integers(1, 4))
def test_igbv1_is_its_definition_in_every_step(history: History, start: int, length: int) -> None:
    steps, n_tasks = history.steps(), len(history.tasks)
    weights = history.play(IGBv1(start, start + length).bind(history.tasks))
    for step, actual in enumerate(weights):
        expected = oracle.igbv1(steps[:step], n_tasks, start, start + length)
        assert actual.tolist() == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


@given(histories())
def test_tla_is_its_definition_in_every_step(history: History) -> None:
    weights = history.play(TLA().bind(history.tasks))
    for counts, actual in zip(history.counts.tolist(), weights, strict=True):
        expected = oracle.tla(counts) if any(counts) else [0.0] * len(counts)
        assert actual.tolist() == pytest.approx(expected, rel=ROUNDING)


def test_rlw_is_n_softmax_of_standard_normal_numbers() -> None:
    rule = RLW(seed=1).bind(NAMES)
    draws = torch.stack([rule.weights(torch.ones(4)) for _ in range(4000)]).double()
    torch.testing.assert_close(draws.sum(1), torch.full((4000,), 4.0, dtype=torch.float64), rtol=1e-6, atol=0)
    # log w = z - logsumexp z + log 4: less its mean over the tasks, z less its mean, of variance 3/4.
    z = draws.log() - draws.log().mean(1, keepdim=True)
    # 4 standard errors.
    assert z.mean(0).abs().max() < 4 * math.sqrt(0.75 / 4000)
    assert (z.var(0) - 0.75).abs().max() < 4 * 0.75 * math.sqrt(2 / 4000)
    covariance = torch.cov(z.T)
    assert (covariance - (torch.eye(4) - 0.25)).abs().max() < 4 / math.sqrt(4000)


def test_rlw_draws_where_its_generator_is_whatever_the_default_device() -> None:
    counts = torch.tensor([3, 1, 2, 4])
    here, there = (RLW(seed=5).bind(NAMES) for _ in range(2))
    for _ in range(2):
        expected, saved = here.weights(counts), here.state_dict()
        # Stands for torch.set_default_device("cuda").
        with torch.device("meta"):
            assert there.weights(counts).tolist() == expected.tolist()
            there.load_state_dict(saved)
        here.load_state_dict(saved)


def test_rlw_draws_alike_on_every_rank_whatever_else_draws() -> None:
    first, second, other = (RLW(seed=seed).bind(NAMES) for seed in (5, 5, 6))
    seen = set()
    for step in range(6):
        torch.manual_seed(step)
        expected = first.weights(torch.ones(4))
        torch.rand(step)
        before = torch.get_rng_state()
        assert torch.equal(second.weights(torch.tensor([0, 9, 9, 9])), expected)
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(other.weights(torch.ones(4)), expected)
        seen.add(tuple(expected.tolist()))
    assert len(seen) == 6
    assert torch.equal(
        first.bind(NAMES).weights(torch.ones(4)), RLW(seed=5).bind(NAMES).weights(torch.ones(4))
    )


@pytest.mark.parametrize("name", sorted(all_rules(1).keys() - {"TLA"}))
@given(history=histories())
def test_weights_are_finite_not_negative_and_average_one(name: str, history: History) -> None:
    # At a loss of 0 some scalarizers have no derivative, and the adapter raises.
    assume(history.loss_sums[history.counts > 0].all() or not name.startswith("torchjd"))
    n_tasks = len(history.tasks)
    for weights in history.play(all_rules(n_tasks)[name]().bind(history.tasks)):
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(n_tasks, rel=1e-5)


@given(histories(), st.permutations(range(4)))
def test_naming_the_tasks_in_another_order_moves_their_weights_along(
    history: History, order: list[int]
) -> None:
    order = [task for task in order if task < len(history.tasks)]
    moved = History(history.loss_sums[:, order], history.counts[:, order])
    for make in (lambda: DWA(2), lambda: IGBv1(1, 3), TLA):
        for weights, theirs in zip(
            history.play(make().bind(history.tasks)), moved.play(make().bind(history.tasks)), strict=True
        ):
            torch.testing.assert_close(theirs, weights[order], rtol=ROUNDING, atol=0)


@given(histories(), st.lists(st.sampled_from([0.25, 2.0, 64.0]), min_size=4, max_size=4))
def test_the_unit_of_a_loss_is_nothing_to_dwa_and_igbv1(history: History, units: list[float]) -> None:
    # Powers of two round nothing.
    scaled = History(history.loss_sums * torch.tensor(units[: len(history.tasks)]), history.counts)
    for make in (lambda: DWA(2), lambda: IGBv1(1, 3)):
        for weights, theirs in zip(
            history.play(make().bind(history.tasks)), scaled.play(make().bind(history.tasks)), strict=True
        ):
            assert torch.equal(weights, theirs)


@pytest.mark.parametrize("name", own_rules())
@given(history=histories(), stated=st.sampled_from([0.0, 1.0, 2.5]))
def test_a_fixed_task_keeps_its_weight_and_is_not_seen_by_the_rule(
    name: str, history: History, stated: float
) -> None:
    fixed, others = history.tasks[0], [index for index in range(len(history.tasks)) if index]
    if not others:
        return
    rule = own_rules({fixed: stated})[name]().bind(history.tasks)
    rest = own_rules()[name]().bind(history.tasks[1:])
    without = History(history.loss_sums[:, others], history.counts[:, others])
    for weights, theirs in zip(history.play(rule), without.play(rest), strict=True):
        assert weights[0] == stated
        assert torch.equal(weights[1:], theirs)


def test_a_task_whose_sum_is_not_finite_counts_as_absent() -> None:
    """An fp16 gradient scaler skips the step that gave it; the run goes on, and so must the weights."""
    counts = torch.full((8, 2), 3)
    broken = History(torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) + 1, counts.clone())
    absent = History(broken.loss_sums.clone(), counts.clone())
    broken.loss_sums[2, 0], broken.loss_sums[5, 1] = torch.nan, torch.inf
    absent.counts[2, 0] = absent.counts[5, 1] = 0
    for make in (lambda: DWA(2), lambda: IGBv1(1, 3)):
        expected = absent.play(make().bind(NAMES[:2]))
        for weights, theirs in zip(broken.play(make().bind(NAMES[:2])), expected, strict=True):
            assert torch.equal(weights, theirs)


def moved_by(make: Callable[[], Weighting], steps: int) -> list[bool]:
    """Whether the weights are other than 1, in each of the steps, where one task's loss falls."""
    losses = torch.stack([torch.linspace(4.0, 1.0, steps), torch.full((steps,), 3.0)], 1)
    history = History(losses * 5, torch.full((steps, 2), 5))
    return [not torch.equal(each, torch.ones(2)) for each in history.play(make().bind(NAMES[:2]))]


def test_the_first_steps_that_are_weighted() -> None:
    assert moved_by(lambda: DWA(window=1), 4) == [False, False, True, True]
    assert moved_by(lambda: DWA(window=3), 8) == [False] * 6 + [True] * 2
    assert moved_by(DWA, 52) == [False] * 50 + [True] * 2
    assert moved_by(lambda: IGBv1(0, 1), 4) == [False, False, True, True]
    assert moved_by(lambda: IGBv1(1, 3), 5) == [False] * 3 + [True] * 2
    assert moved_by(IGBv1, 202) == [False] * 200 + [True] * 2


@pytest.mark.parametrize("make", [lambda: DWA(1, temperature=0.01), lambda: IGBv1(0, 1)])
def test_no_loss_is_lost_sight_of(make: Callable[[], Weighting]) -> None:
    """Of ratios 1 and 110, or 1 and 2.2 over 0.01, the softmax is 0: a row of weight 0 is not read."""
    counts = torch.tensor([4, 4])
    of_dwa = isinstance(make(), DWA)
    losses = torch.tensor([[4.0, 2.0 if of_dwa else 0.04], [4.0, 4.4], [4.0, 4.4]])
    weights = History(losses, counts.expand(3, 2)).play(make().bind(NAMES[:2]))
    assert weights[2].tolist() == [2.0**-64, 2.0]


class Off(Weighting):
    """A rule of one's own that leaves a task out, as a schedule may."""

    def compute(self, counts: Tensor) -> Tensor:
        return torch.tensor([0.0, 2.0])


def test_a_rule_of_ones_own_may_leave_a_task_out_or_not() -> None:
    class Measures(Off):
        least = 2.0**-64

    assert Off().bind(NAMES[:2]).weights(torch.ones(2)).tolist() == [0.0, 2.0]
    assert Measures().bind(NAMES[:2]).weights(torch.ones(2)).tolist() == [2.0**-64, 2.0]
    assert Measures(fixed={NAMES[2]: 0.0}).bind(NAMES[:3]).weights(torch.ones(3)).tolist()[2] == 0


def test_static_weights_stay_and_equal_weights_are_one() -> None:
    counts = torch.tensor([3, 0, 9, 1])
    rule = StaticWeights(dict(zip(NAMES, [0.5, 2.0, 0.0, 1.25], strict=True))).bind(NAMES)
    for _ in range(3):
        assert rule.weights(counts).tolist() == [0.5, 2.0, 0.0, 1.25]
        rule.update(torch.rand(4), counts)
    assert StaticWeights().bind(NAMES).weights(counts).tolist() == [1.0] * 4
