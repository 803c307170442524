"""What a checkpoint keeps: a run that goes on from it is bit for bit the run that was never broken off."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchjd.scalarization import STCH

from cotbal.balancing import DWA, RLW, TLA, IGBv1, StaticWeights, TorchJDWeighting, Weighting
from tests.balancing.histories import NAMES, History
from tests.balancing.rules import adapted, all_rules

STEPS, CUT = 12, 7
# Rules without memory: their weights follow from the step alone.
FORGETFUL = {"static", "TLA", "torchjd Constant", "torchjd Mean", "torchjd Sum"}


def run() -> History:
    """Losses that fall at different rates; a task that begins late, one that comes and goes."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(2, 30, (STEPS, 4), generator=generator)
    counts[:2, 0], counts[::3, 1], counts[5:8, 2] = 0, 0, 0
    fall = torch.tensor([0.99, 0.9, 0.8, 0.95])[None] ** torch.arange(STEPS)[:, None]
    return History(4 * fall * (1 + 0.1 * torch.rand(STEPS, 4, generator=generator)) * counts, counts)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state, allow_nan=False))


def resumed(name: str) -> tuple[list[Tensor], list[Tensor], tuple[Any, Any]]:
    """The weights of the unbroken run after the cut, those of the resumed run, and both states at the end."""
    unbroken, before, after = (all_rules(4)[name]().bind(NAMES) for _ in range(3))
    whole = run().play(unbroken)
    run().play(before, stop=CUT)
    after.load_state_dict(through_a_file(before.state_dict()))
    return whole[CUT:], run().play(after, start=CUT), (unbroken.state_dict(), after.state_dict())


@pytest.mark.parametrize("name", all_rules(4))
def test_a_resumed_run_goes_on_bit_for_bit(name: str) -> None:
    expected, weights, (state, its_state) = resumed(name)
    assert torch.equal(torch.stack(weights), torch.stack(expected))
    assert its_state == state
    assert state["step"] == STEPS


@pytest.mark.parametrize("name", sorted(all_rules(4).keys() - FORGETFUL))
def test_without_its_state_it_would_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (Weighting, RLW, TorchJDWeighting):
        monkeypatch.setattr(owner, "load_state_dict", lambda self, saved: None)
    expected, weights, _ = resumed(name)
    assert not torch.equal(torch.stack(weights), torch.stack(expected))


def test_a_state_taken_is_not_changed_by_the_steps_after_it() -> None:
    for name, make in all_rules(4).items():
        rule = make().bind(NAMES)
        run().play(rule, stop=CUT)
        state = rule.state_dict()
        text = json.dumps(state)
        run().play(rule, start=CUT)
        assert json.dumps(state) == text, name


@pytest.mark.parametrize("name", all_rules(4))
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_state_read_back_is_the_state(name: str, steps: int) -> None:
    rule, again = (all_rules(4)[name]().bind(NAMES) for _ in range(2))
    run().play(rule, stop=steps)
    saved = through_a_file(rule.state_dict())
    again.load_state_dict(saved)
    assert through_a_file(again.state_dict()) == saved


@pytest.mark.parametrize("name", all_rules(4))
def test_a_state_taken_within_a_step_is_that_before_it(name: str) -> None:
    """The weights of the step are there, its sums are not: a run that goes on makes the step anew."""
    rule, resumed = (all_rules(4)[name]().bind(NAMES) for _ in range(2))
    run().play(rule, stop=CUT)
    counts = run().counts[CUT]
    weights = rule.weights(counts)
    resumed.load_state_dict(through_a_file(rule.state_dict()))
    assert torch.equal(resumed.weights(counts), weights)


@pytest.mark.parametrize(
    ("saved", "loading", "tasks", "key"),
    [
        (DWA(2), IGBv1(1, 3), NAMES, "rule"),
        (TLA(), StaticWeights(), NAMES, "rule"),
        (adapted("UW", 4), adapted("IMTLL", 4), NAMES, "rule"),
        (DWA(2), DWA(3), NAMES, "options"),
        (DWA(2), DWA(2, temperature=1.0), NAMES, "options"),
        (RLW(1), RLW(2), NAMES, "options"),
        (adapted("STCH", 4), TorchJDWeighting(STCH(mu=0.7)), NAMES, "options"),
        (DWA(2), DWA(2), NAMES[::-1], "tasks"),
        (DWA(2), DWA(2), NAMES[:3], "tasks"),
        (RLW(), RLW(fixed={"chat": 1.0}), NAMES, "fixed"),
        (StaticWeights(), StaticWeights(dict.fromkeys(NAMES, 2.0)), NAMES, "fixed"),
    ],
)
def test_a_state_of_another_run_is_refused(
    saved: Weighting, loading: Weighting, tasks: tuple[str, ...], key: str
) -> None:
    state = through_a_file(saved.bind(NAMES).state_dict())
    with pytest.raises(ValueError, match=rf"state: expected a state whose '{key}' is"):
        loading.bind(tasks).load_state_dict(state)


def test_of_many_weights_only_those_that_changed_are_told() -> None:
    weights = {name: 0.5 + place for place, name in enumerate(NAMES)}
    state = through_a_file(StaticWeights(weights).bind(NAMES).state_dict())
    changed = StaticWeights({**weights, NAMES[1]: 1.25}).bind(NAMES)
    told = f"'fixed' is {{'{NAMES[1]}': 1.25}}, got {{'{NAMES[1]}': 1.5}}; resume with"
    with pytest.raises(ValueError, match=re.escape(told)):
        changed.load_state_dict(state)


def test_constant_weights_in_another_order_are_the_same_run() -> None:
    """A file of weights that was written again may have its tasks in another order."""
    weights = {name: 0.5 + place for place, name in enumerate(NAMES)}
    saved = StaticWeights(weights).bind(NAMES)
    saved.update(torch.ones(4), torch.ones(4))
    resumed = StaticWeights(weights).bind(NAMES[::-1])
    resumed.load_state_dict(through_a_file(saved.state_dict()))
    assert resumed.step == 1
    assert resumed.weights(torch.ones(4)).tolist() == [3.5, 2.5, 1.5, 0.5]
    with pytest.raises(ValueError, match="state: expected a state whose 'tasks' is"):
        StaticWeights().bind(NAMES[:3]).load_state_dict(saved.state_dict())


def test_a_state_with_other_tensors_is_refused() -> None:
    state = DWA(2).bind(NAMES).state_dict()
    state["state"]["losses"]["values"].pop()
    with pytest.raises(ValueError, match="state: expected the tensors"):
        DWA(2).bind(NAMES).load_state_dict(state)
    del state["state"]["losses"]
    with pytest.raises(ValueError, match="state: expected the tensors"):
        DWA(2).bind(NAMES).load_state_dict(state)


class Until(Weighting):
    """A rule with numbers of its own."""

    def __init__(self, stops: Any = (1, 3)) -> None:
        super().__init__(stops=stops)

    def compute(self, counts: Tensor) -> Tensor:
        return torch.ones(len(counts))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DWA(25.0),  # type: ignore[arg-type]
        lambda: DWA(np.int64(25), np.float32(2)),
        lambda: IGBv1(np.int64(1), np.int64(3)),
        lambda: RLW(np.int64(7)),
        Until,
        lambda: Until(np.float32(0.1)),
    ],
)
def test_options_of_any_kind_of_number_are_saved_and_known_again(make: Callable[[], Weighting]) -> None:
    rule, again = make().bind(NAMES), make().bind(NAMES)
    rule.update(torch.ones(4), torch.ones(4))
    again.load_state_dict(through_a_file(rule.state_dict()))
    assert again.step == 1


def test_an_option_that_cannot_be_saved_is_told_at_once() -> None:
    with pytest.raises(TypeError, match=r"Until: options\['stops'\]: expected .* got set, which cannot be"):
        Until({1, 3})


class Mean(Weighting):
    """A running mean in the dtype in which it began, and of the shape."""

    def __init__(self, dtype: torch.dtype, *rows: int) -> None:
        super().__init__()
        self.began = torch.ones(*rows, len(NAMES), dtype=dtype)

    def initial_state(self, n_tasks: int) -> dict[str, Tensor]:
        return {"mean": self.began}

    def observe(self, loss: Tensor, present: Tensor) -> None:
        mean = self.state["mean"]
        self.state["mean"] = 0.9 * mean + 0.1 * loss if mean.ndim == 1 else torch.cat([mean, loss[None]])

    def compute(self, counts: Tensor) -> Tensor:
        return torch.ones(len(counts))


def test_a_state_that_no_run_could_go_on_from_is_told_in_the_first_step() -> None:
    rule = Mean(torch.float64).bind(NAMES)
    rule.update(torch.ones(4), torch.ones(4))
    Mean(torch.float64).bind(NAMES).load_state_dict(through_a_file(rule.state_dict()))
    for other in (Mean(torch.float32), Mean(torch.float64, 1)):
        with pytest.raises(ValueError, match=r"^Mean.observe: expected .*'mean': .* got .*; make them so in"):
            other.bind(NAMES).update(torch.ones(4), torch.ones(4))


@pytest.mark.parametrize(
    ("state", "came"),
    [({"last_loss": torch.ones(4)}, "the name 'last_loss'"), ({"mean": [1.0] * 4}, "list for 'mean'")],
)
def test_a_state_that_is_not_the_rules_own_is_told_at_once(state: Any, came: str) -> None:
    """Each step would write over the one; the other could be moved to no device."""
    rule = Mean(torch.float64)
    rule.initial_state = lambda n_tasks: state  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=rf"^Mean.initial_state: expected tensors .*, got {came}"):
        rule.bind(NAMES)
