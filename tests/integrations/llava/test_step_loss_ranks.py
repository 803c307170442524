"""The loss of each optimizer step is Eq. 2 on two processes: DDP and DeepSpeed's real engine."""

import pytest

from tests.integrations.llava.cases import Case
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import TWO_RANKS, controls, unpatched
from tests.integrations.llava.test_step_loss import Recordings, check_control, check_steps, named
from tests.integrations.llava.world import World


@pytest.fixture(scope="module")
def recordings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    cases = [*TWO_RANKS, *map(unpatched, controls(TWO_RANKS))]
    return run_cases(world, tmp_path_factory.mktemp("ranks") / "runs", cases, n_ranks=2)


@named(TWO_RANKS)
def test_the_loss_of_a_step_is_equation_2(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_steps(recordings[case.name], tasks, case)


@named(controls(TWO_RANKS))
def test_the_bound_is_missed_without_the_patch(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_control(recordings[unpatched(case).name], tasks, case)
