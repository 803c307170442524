"""Five steps of SGD: the same samples give the same parameters, in micro-batches and on ranks alike.

A distance is measured against the update, not against the parameters, and the updates are large: at a small
rate a wrong denominator hides in the parameters' norm.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.integrations.llava.cases import EQUAL, Case
from tests.integrations.llava.oracle import distance, loss_error, norm
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import BOUND, unpatched
from tests.integrations.llava.test_step_loss import Recordings
from tests.integrations.llava.world import World

_UPDATE = 1e-4
# Three micro-batches of 4 an epoch: the second window of two takes one from either epoch.
_EPOCH = [2, 10, 4, 0, 16, 7, 1, 11, 9, 40, 12, 24]


def _options(batch: int, accumulation: int) -> Mapping[str, Any]:
    return {"max_steps": 5, "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}


_WHOLE, _HALVES = Case("8", _options(8, 1)), Case("4 x 2", _options(4, 2))
_STRADDLING = Case("4 x 2 across epochs", _options(4, 2), order=_EPOCH)
# The same 40 samples in one epoch.
_STRAIGHT = Case("8 in one epoch", _options(8, 1), order=(_EPOCH * 4)[:40])
_EQUAL = Case("8, weights 1", _options(8, 1), weights=EQUAL)
_ALONE = (_WHOLE, _HALVES, _STRADDLING, _STRAIGHT, _EQUAL, unpatched(_WHOLE), unpatched(_HALVES))
_TWO_RANKS = (Case("DDP", _options(4, 1)), Case("ZeRO-3", _options(4, 1), zero=3))
_LONG = (
    Case("DDP, 2 x 2", _options(2, 2)),
    Case("ZeRO-2", _options(4, 1), zero=2),
    Case("ZeRO-2, 2 x 2", _options(2, 2), zero=2),
    Case("ZeRO-3, 2 x 2", _options(2, 2), zero=3),
    Case("ZeRO-3, 1 x 4", _options(1, 4), zero=3),
)


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("updates") / "alone", _ALONE)


@pytest.fixture(scope="module")
def two_ranks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("updates") / "ranks", _TWO_RANKS, n_ranks=2)


@pytest.fixture(scope="module")
def long(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("updates") / "long", _LONG, n_ranks=2)


def test_the_steps_move_the_parameters(alone: Recordings) -> None:
    run = alone[_WHOLE.name][0]
    assert distance(run.end, run.start) >= 0.01 * norm(run.start)


def test_accumulation_changes_nothing(alone: Recordings) -> None:
    assert _difference(alone, _HALVES.name, alone[_WHOLE.name][0]) <= _UPDATE


def test_a_window_across_epochs_is_a_whole_step(alone: Recordings) -> None:
    assert _difference(alone, _STRADDLING.name, alone[_STRAIGHT.name][0]) <= _UPDATE


@pytest.mark.parametrize("name", [case.name for case in _TWO_RANKS])
def test_ranks_change_nothing(alone: Recordings, two_ranks: Recordings, name: str) -> None:
    assert _difference(two_ranks, name, alone[_WHOLE.name][0]) <= _UPDATE


@pytest.mark.full
@pytest.mark.parametrize("name", [case.name for case in _LONG])
def test_ranks_with_accumulation_change_nothing(alone: Recordings, long: Recordings, name: str) -> None:
    assert _difference(long, name, alone[_WHOLE.name][0]) <= _UPDATE


def test_accumulation_changes_llavas_own_training(alone: Recordings) -> None:
    """The control: LLaVA alone averages the micro-batches' means."""
    whole = alone[unpatched(_WHOLE).name][0]
    assert _difference(alone, unpatched(_HALVES).name, whole) >= 100 * _UPDATE


def test_weights_of_1_are_llavas_own_training(alone: Recordings, tasks: list[str]) -> None:
    own = unpatched(_WHOLE).name
    assert _difference(alone, _EQUAL.name, alone[own][0]) <= _UPDATE
    assert loss_error(alone[_EQUAL.name], tasks, EQUAL) <= BOUND
    assert loss_error(alone[own], tasks, EQUAL) <= BOUND


def _difference(runs: Recordings, name: str, reference: Any) -> float:
    """|p - p_ref| / |p_ref - p_0|, the largest over the ranks."""
    ranks = runs[name]
    assert all(not rank.error for rank in ranks), ranks[0].error
    assert all(distance(rank.start, reference.start) == 0 for rank in ranks)
    update = distance(reference.end, reference.start)
    return max(distance(rank.end, reference.end) for rank in ranks) / update
