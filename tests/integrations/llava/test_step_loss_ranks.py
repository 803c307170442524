"""The loss of each optimizer step is Eq. 2 on two processes: DDP and DeepSpeed's real engine."""

import pytest

from tests.integrations.llava.cases import WEIGHTS, Case
from tests.integrations.llava.oracle import loss_error, relative, returned_loss, step_loss
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import BOUND, MICRO, TWO_RANKS, WORLD, controls, unpatched
from tests.integrations.llava.test_step_loss import Recordings, check_control, check_steps, named
from tests.integrations.llava.world import World


@pytest.fixture(scope="module")
def recordings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    cases = [*TWO_RANKS, *map(unpatched, controls(TWO_RANKS)), WORLD, MICRO]
    return run_cases(world, tmp_path_factory.mktemp("ranks") / "runs", cases, n_ranks=2)


@named(TWO_RANKS)
def test_the_loss_of_a_step_is_equation_2(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_steps(recordings[case.name], tasks, case)


@named(controls(TWO_RANKS))
def test_the_bound_is_missed_without_the_patch(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_control(recordings[unpatched(case).name], tasks, case)


@named([WORLD, MICRO])
def test_the_denominator_of_less_than_a_step(recordings: Recordings, tasks: list[str], case: Case) -> None:
    ranks = recordings[case.name]
    assert all(not rank.error for rank in ranks), ranks[0].error
    for step in ranks[0].steps:
        one, two = (rank.steps[step].micro_batches for rank in ranks)
        parts = (
            [list(pair) for pair in zip(one, two, strict=True)]
            if case is WORLD
            else [[each] for each in one + two]
        )
        losses = [step_loss(part, tasks, WEIGHTS) for part in parts]
        assert relative(returned_loss(ranks, step), sum(losses) / len(losses)) <= BOUND
    # And so it is not the step's.
    assert loss_error(ranks, tasks, WEIGHTS) >= 100 * BOUND
