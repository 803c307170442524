"""Weights that change with every step, and a training that goes on from a checkpoint."""

import pytest

from tests.balancing.oracle import dwa
from tests.integrations.llava.cases import WEIGHTS, Case
from tests.integrations.llava.oracle import (
    distance,
    micro_batches_of,
    relative,
    returned_loss,
    step_loss,
    task_sums,
)
from tests.integrations.llava.recorder import Recording
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import BOUND
from tests.integrations.llava.test_step_loss import Recordings
from tests.integrations.llava.world import World

_STEPS = 6
_OPTIONS = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 3}
_RULES = {"DWA": "dwa", "RLW": "rlw", "fixed weights": WEIGHTS}
_CASES = [
    case
    for name, weights in _RULES.items()
    for case in (
        Case(f"{name}, unbroken", _OPTIONS | {"max_steps": _STEPS, "save_strategy": "no"}, weights),
        Case(f"{name}, first half", _OPTIONS | {"max_steps": 3}, weights),
        Case(
            f"{name}, second half", _OPTIONS | {"max_steps": _STEPS}, weights, resumes=f"{name}, first half"
        ),
    )
]


@pytest.fixture(scope="module")
def recordings(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return run_cases(world, tmp_path_factory.mktemp("dynamic") / "runs", _CASES)


def test_dwa_weighs_by_the_losses_of_the_steps_before(recordings: Recordings, tasks: list[str]) -> None:
    ranks = recordings["DWA, unbroken"]
    assert not ranks[0].error, ranks[0].error
    # In the order of the names, as the data tells them.
    names, history, drift = sorted(WEIGHTS), [], 0.0
    for step in range(_STEPS):
        weights = dict(zip(names, dwa(history, len(names), window=1, temperature=0.5), strict=True))
        drift = max(drift, *(abs(weight - 1) for weight in weights.values()))
        expected = step_loss(micro_batches_of(ranks, step), tasks, weights)
        assert relative(returned_loss(ranks, step), expected) <= BOUND
        sums, counts = task_sums(micro_batches_of(ranks, step), tasks)
        history.append([sums[name] / counts[name] if counts[name] else None for name in names])
    assert drift > 0.1


def test_rlw_draws_for_each_step(recordings: Recordings, tasks: list[str]) -> None:
    """The drawn weights are those in the log, rounded nowhere, and explain the loss."""
    ranks = recordings["RLW, unbroken"]
    assert not ranks[0].error, ranks[0].error
    logged = [
        {name: log[f"task_weight/{name}"] for name in WEIGHTS} for log in ranks[0].logs if _has_weights(log)
    ]
    assert len(logged) == _STEPS
    assert len({weights["vqa"] for weights in logged}) == _STEPS
    for step, weights in enumerate(logged):
        expected = step_loss(micro_batches_of(ranks, step), tasks, weights)
        assert relative(returned_loss(ranks, step), expected) <= BOUND


@pytest.mark.parametrize("name", _RULES)
def test_a_resumed_run_equals_the_unbroken_one(recordings: Recordings, name: str) -> None:
    unbroken, second = recordings[f"{name}, unbroken"][0], recordings[f"{name}, second half"][0]
    assert not second.error, second.error
    assert list(second.steps) == [3, 4, 5]
    for step in second.steps:
        assert _records(second, step) == _records(unbroken, step)
        assert second.steps[step].returned == unbroken.steps[step].returned
    assert distance(second.end, unbroken.end) == 0


def _has_weights(log: dict[str, float]) -> bool:
    return any(key.startswith("task_weight/") for key in log)


def _records(recording: Recording, step: int) -> list[list[int]]:
    return [micro_batch.records for micro_batch in recording.steps[step].micro_batches]
