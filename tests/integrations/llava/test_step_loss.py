"""The loss of each optimizer step is Eq. 2, on one process and on two, and is not without the patch."""

import pytest

from tests.integrations.llava.cases import EQUAL, WEIGHTS, Case
from tests.integrations.llava.oracle import distance, loss_error, micro_batches_of, task_sums
from tests.integrations.llava.recorder import Recording
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import ALONE, BOUND, bound, controls, unpatched
from tests.integrations.llava.world import World

Recordings = dict[str, list[Recording]]


def named(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def recordings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    cases = [each for case in ALONE for each in (case, unpatched(case))]
    return run_cases(world, tmp_path_factory.mktemp("alone") / "runs", cases)


@named(ALONE)
def test_the_loss_of_a_step_is_equation_2(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_steps(recordings[case.name], tasks, case)


@named(controls(ALONE))
def test_the_bound_is_missed_without_the_patch(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_control(recordings[unpatched(case).name], tasks, case)


def test_the_recording_explains_llavas_own_loss(recordings: Recordings, tasks: list[str]) -> None:
    """With one process and no accumulation LLaVA's loss is Eq. 1: what is recorded is what it computed."""
    assert loss_error(recordings["plain, not patched"], tasks, EQUAL) <= BOUND


def test_the_tasks_losses_differ(recordings: Recordings, tasks: list[str]) -> None:
    ranks = recordings["plain, not patched"]
    sums, counts = task_sums(micro_batches_of(ranks, 0) + micro_batches_of(ranks, 1), tasks)
    means = [sums[task] / counts[task] for task in WEIGHTS]
    assert max(means) >= 1.2 * min(means)


def check_steps(ranks: list[Recording], tasks: list[str], case: Case) -> None:
    """Every step of a patched run is as near to Eq. 2 as it must be."""
    assert all(not rank.error for rank in ranks), ranks[0].error
    assert [len(rank.steps) for rank in ranks] == [case.options.get("max_steps", 3)] * len(ranks)
    assert loss_error(ranks, tasks, WEIGHTS) <= bound(case)
    assert all(distance(rank.end, ranks[0].end) == 0 for rank in ranks)


def check_control(ranks: list[Recording], tasks: list[str], case: Case) -> None:
    """A step of the unpatched run is a hundred times as far from Eq. 2, or not a number."""
    assert all(not rank.error for rank in ranks), ranks[0].error
    assert not loss_error(ranks, tasks, WEIGHTS) <= 100 * bound(case)
