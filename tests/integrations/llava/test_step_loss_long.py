"""The loss of each optimizer step is Eq. 2: more steps, windows across epochs, settings together."""

import pytest

from tests.integrations.llava.cases import Case
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import LONG_ALONE, LONG_TWO_RANKS
from tests.integrations.llava.test_step_loss import Recordings, check_steps, named
from tests.integrations.llava.world import World

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def recordings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    folder = tmp_path_factory.mktemp("long")
    return run_cases(world, folder / "alone", LONG_ALONE) | run_cases(
        world, folder / "ranks", LONG_TWO_RANKS, n_ranks=2
    )


@named([*LONG_ALONE, *LONG_TWO_RANKS])
def test_the_loss_of_a_step_is_equation_2(recordings: Recordings, tasks: list[str], case: Case) -> None:
    check_steps(recordings[case.name], tasks, case)
