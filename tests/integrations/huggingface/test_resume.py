"""A run whose processes were killed goes on from its checkpoint as if nothing had been, to the last bit."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from transformers.trainer_utils import get_last_checkpoint

from tests.integrations.huggingface.resume_runs import CHECKPOINT, RULES, SAVE_STEPS, STEPS, Outcome, run


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.full)], ids="{} ranks".format)
def n_ranks(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=RULES)
def runs(request: pytest.FixtureRequest, n_ranks: int, tmp_path_factory: pytest.TempPathFactory) -> "Runs":
    return Runs(request.param, n_ranks, tmp_path_factory.mktemp("runs"))


class Runs:
    """The unbroken run, and a folder with what another left behind that was killed in step 7."""

    def __init__(self, rule: str, n_ranks: int, folder: Path) -> None:
        self.rule, self.n_ranks, self.folder = rule, n_ranks, folder / "killed"
        self.whole = run(rule, folder / "whole", "whole", n_ranks)
        run(rule, self.folder, "killed", n_ranks)
        assert get_last_checkpoint(str(self.folder)) == str(self.folder / CHECKPOINT)

    def gone_on(self, mode: str) -> list[Outcome]:
        """What a run in that mode makes of the killed run's last checkpoint."""
        return run(self.rule, self.folder, mode, self.n_ranks)


def differing(first: Outcome, second: Outcome) -> set[str]:
    """The parameters of which a bit differs."""
    return {
        name for name, each in first.parameters.items() if not np.array_equal(each, second.parameters[name])
    }


def test_a_killed_run_goes_on_to_the_same_bits(runs: Runs) -> None:
    steps = range(SAVE_STEPS + 1, STEPS + 1)
    for whole, resumed in zip(runs.whole, runs.gone_on("resumed"), strict=True):
        weights = [whole.weights[step] for step in steps]
        assert all(each != [1.0, 1.0] for each in weights)
        assert all(one != other for one, other in combinations(weights, 2))
        assert resumed.weights == dict(zip(steps, weights, strict=True))
        assert not differing(whole, resumed)
        assert resumed.state == whole.state
        # Every rank draws and weighs alike.
        assert whole.weights == runs.whole[0].weights
        assert whole.state["step"] == STEPS


def test_without_the_weightings_state_it_would_be_another_run(runs: Runs) -> None:
    (forgetful, *_), whole = runs.gone_on("forgetful"), runs.whole[0]
    steps = range(SAVE_STEPS + 1, STEPS + 1)
    assert list(forgetful.weights) == list(steps)
    assert any(forgetful.weights[step] != whole.weights[step] for step in steps)
    assert differing(forgetful, whole)
    assert forgetful.state != whole.state
