"""The loss of each optimizer step of LLaVA-NeXT's own training is Eq. 2, however it lays out its images."""

import pytest

from tests.integrations.llava_next import CHECKOUT

if CHECKOUT is None:
    pytest.skip("no LLaVA-NeXT: name a checkout of it in COTBAL_TEST_LLAVA_NEXT", allow_module_level=True)

from tests.integrations.llava.cases import Case
from tests.integrations.llava.recorder import Recording
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava_next.cases import EQUAL, WEIGHTS
from tests.integrations.llava_next.step_loss_cases import (
    ALONE,
    BOUND,
    CONTROLS,
    ENGINES,
    LAYOUTS,
    TWO_RANKS,
    control,
    with_controls,
)
from tests.integrations.llava_next.steps import loss_error, task_means
from tests.integrations.llava_next.world import World

Recordings = dict[str, list[Recording]]
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
_CUT_TWO = "accumulation and truncation"
_LAUNCHER = "tests.integrations.llava_next.launch"


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    folder = tmp_path_factory.mktemp("alone") / "runs"
    return run_cases(world, folder, with_controls(ALONE), launcher=_LAUNCHER)


@pytest.fixture(scope="module")
def layouts(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("layouts") / "runs", LAYOUTS, launcher=_LAUNCHER)


@pytest.fixture(scope="module")
def two_ranks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("ranks") / "runs", with_controls(TWO_RANKS), 2, _LAUNCHER)


@pytest.fixture(scope="module")
def engines(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("engines") / "runs", ENGINES, 2, _LAUNCHER)


def named(cases: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@named(ALONE)
def test_one_process(alone: Recordings, case: Case) -> None:
    check(alone, case)


@named(TWO_RANKS)
def test_two_ranks(two_ranks: Recordings, case: Case) -> None:
    check(two_ranks, case)


@named(ENGINES)
def test_deepspeed(engines: Recordings, case: Case) -> None:
    check(engines, case)


@named(LAYOUTS)
def test_layouts(layouts: Recordings, case: Case) -> None:
    """The rows were counted before the pass, which refuses labels that differ from those counted."""
    check(layouts, case)


@pytest.mark.parametrize(("whole", "cut"), [("plain", "truncation"), ("accumulation", _CUT_TWO)])
def test_truncation_cuts_labels(alone: Recordings, whole: str, cut: str) -> None:
    assert _n_labels(alone[cut]) < _n_labels(alone[whole])


def test_ranks_drew_records_of_their_own(two_ranks: Recordings) -> None:
    first, second = (rank.ids for rank in two_ranks["DDP, files of a mixture"])
    assert len(first) == len(second)
    assert set(first) != set(second)


def test_the_recording_explains_its_own_loss(alone: Recordings) -> None:
    """With one process and no accumulation its loss is Eq. 1: what is recorded is what it computed."""
    assert loss_error(alone[control("plain")], EQUAL) <= BOUND


def test_the_tasks_losses_differ(alone: Recordings) -> None:
    means = task_means(alone[control("plain")])
    assert len(means) == len(WEIGHTS)
    assert max(means.values()) >= 1.2 * min(means.values())


def check(recordings: Recordings, case: Case) -> None:
    ranks = recordings[case.name]
    assert all(not rank.error for rank in ranks), ranks[0].error
    assert loss_error(ranks, WEIGHTS) <= BOUND
    if case.name in CONTROLS:
        ranks = recordings[control(case.name)]
        assert all(not rank.error for rank in ranks), ranks[0].error
        assert loss_error(ranks, WEIGHTS) > 100 * BOUND


def _n_labels(ranks: list[Recording]) -> int:
    steps = (step for rank in ranks for step in rank.steps.values())
    return sum(int((each.labels[:, 1:] != -100).sum()) for step in steps for each in step.micro_batches)
