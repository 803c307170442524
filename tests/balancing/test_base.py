"""What every weighting does for its rule: examples, a rule of one's own, refusals, nothing read back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import cotbal.balancing
from cotbal.balancing import DWA, RLW, TLA, IGBv1, StaticWeights, Weighting, by_name
from cotbal.balancing.base import LEAST
from tests.balancing.histories import NAMES
from tests.balancing.rules import all_rules
from tests.examples import check_examples


# Weights is a type, whose examples are those of as_weighting.
@pytest.mark.parametrize("name", [name for name in cotbal.balancing.__all__ if name != "Weights"])
def test_every_example_runs(name: str) -> None:
    check_examples(getattr(cotbal.balancing, name))


class LastLoss(Weighting):
    """A rule that needs no state of its own."""

    def compute(self, counts: Tensor) -> Tensor:
        return self.last_loss


class Peek(LastLoss):
    """A rule that waits for the device."""

    def compute(self, counts: Tensor) -> Tensor:
        return self.last_loss * self.last_loss.max().item()


def test_a_task_never_seen_has_the_mean_of_the_others_and_the_last_loss_stays() -> None:
    rule = LastLoss().bind(NAMES)
    assert rule.weights(torch.ones(4)).tolist() == [1.0] * 4
    rule.update(torch.tensor([6.0, 0.0, 8.0, 0.0]), torch.tensor([3, 0, 2, 0]))
    assert rule.weights(torch.ones(4)).tolist() == [2.0, 3.0, 4.0, 3.0]
    rule.update(torch.tensor([0.0, 5.0, 3.0, 0.0]), torch.tensor([0, 5, 3, 0]))
    assert rule.weights(torch.ones(4)).tolist() == pytest.approx([2.0, 1.0, 1.0, 4 / 3])
    assert rule.step == 2


def test_the_mean_of_one_task_seen_is_its_loss() -> None:
    rule = LastLoss().bind(NAMES)
    rule.update(torch.tensor([0.0, 0.0, 8.0, 0.0]), torch.tensor([0, 0, 2, 0]))
    assert rule.last_loss.tolist() == [4.0] * 4


def test_the_defaults_are_the_papers() -> None:
    assert DWA().options == {"window": 25, "temperature": 2.0}
    assert IGBv1().options == {"base_start": 100, "base_stop": 200}


def test_weights_of_a_step_do_not_change_within_it_and_bind_starts_afresh() -> None:
    rule = DWA(1).bind(NAMES)
    for factor in (1.0, 2.0):
        rule.update(factor * torch.arange(4.0), torch.ones(4))
    weights = rule.weights(torch.ones(4))
    kept = weights.clone()
    rule.update(torch.arange(4.0).flip(0), torch.ones(4))
    assert torch.equal(weights, kept)
    assert rule.bind(NAMES[:2]).weights(torch.ones(2)).tolist() == [1.0, 1.0]
    assert rule.step == 0


def use(rule: Weighting, device: str) -> Tensor:
    rule.bind(NAMES, device)
    counts = torch.ones(4, dtype=torch.int64, device=device)
    for _ in range(5):
        weights = rule.weights(counts)
        rule.update(torch.ones(4, device=device), counts)
    return weights


# It asks in Python whether a loss is negative.
WAITS = {"torchjd GeometricMean"}


@pytest.mark.parametrize("name", sorted(all_rules(4).keys() - WAITS))
def test_no_step_waits_for_the_device(name: str) -> None:
    """A meta tensor has no values: whatever asked for one would raise."""
    assert use(all_rules(4)[name](), "meta").device.type == "meta"


def test_a_rule_that_waits_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        use(Peek(), "meta")


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: DWA(window=0), "window: expected a whole number of steps >= 1, got 0"),
    (lambda: DWA(window=1.5), "window: expected"),  # type: ignore[arg-type]
    (lambda: DWA(temperature=0.0), "temperature: expected a finite number > 0, got 0.0"),
    (lambda: DWA(temperature=float("inf")), "temperature: expected"),
    (lambda: IGBv1(3, 3), "base_start, base_stop: expected whole numbers"),
    (lambda: IGBv1(-1, 3), "base_start, base_stop: expected whole numbers"),
    (lambda: DWA(window="25"), "window: expected a whole number of steps >= 1, got '25'"),  # type: ignore[arg-type]
    (lambda: DWA(temperature="2"), "temperature: expected"),  # type: ignore[arg-type]
    (lambda: IGBv1(1, float("inf")), "base_start, base_stop: expected"),  # type: ignore[arg-type]
    (lambda: RLW(seed="3"), "seed: expected a whole number of at most 63 bits, got '3'"),  # type: ignore[arg-type]
    (lambda: RLW(seed=1.5), "seed: expected a whole number"),  # type: ignore[arg-type]
    (lambda: RLW(seed=2**64), "seed: expected a whole number"),
    (lambda: DWA(fixed={"chat": -1.0}), "expected a finite weight >= 0"),
    (lambda: DWA(fixed={"chat": 1e-60}), "fixed: task 'chat': 1e-60 is 0 in float32"),
    (lambda: DWA(fixed={"chatt": 1.0}).bind(NAMES), r"fixed: expected a task .* \(did you mean 'chat'\?\)"),
    (lambda: StaticWeights({"chat": 1.0}).bind(NAMES), "no weight for task 'VQA'"),
    (lambda: DWA().weights(torch.ones(4)), r"DWA: it has no tasks yet; call bind"),
    (lambda: DWA().update(torch.ones(4), torch.ones(4)), r"call bind"),
    (lambda: DWA().state_dict(), r"call bind"),
    (lambda: DWA().load_state_dict({}), r"call bind"),
    (lambda: TLA().bind(NAMES).weights(torch.ones(3)), r"counts: expected one value for each of the 4 tasks"),
    (lambda: TLA().bind(NAMES).update(torch.ones(1), torch.ones(4)), "loss_sum: expected one value"),
    (lambda: TLA().bind(NAMES).update(torch.ones(4), torch.ones(1)), "token_count: expected one value"),
    (lambda: by_name("dwaa"), "weighting: expected one of static, tla, rlw, dwa, igbv1, got 'dwaa'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_mistakes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (torch.ones(4), r"got \(4,\)"),
        (torch.ones(1, 3), r"got \(1, 3\)"),
        (torch.tensor(1.0), r"got \(\)"),
        ([1.0, 1.0, 1.0], "got list"),
        (None, "got NoneType"),
    ],
)
def test_weights_of_another_shape_are_told_by_the_name_of_the_rule(returned: Any, got: str) -> None:
    """One of the four tasks is fixed, and `counts` has three."""

    class Own(Weighting):
        def compute(self, counts: Tensor) -> Any:
            return returned

    rule = Own(fixed={"chat": 1.0}).bind(NAMES)
    expected = r"Own\.compute: expected a tensor of the shape \(3,\), .* in which fixed ones do not stand"
    with pytest.raises(ValueError, match=f"^{expected}, {got}$"):
        rule.weights(torch.ones(4))


@pytest.mark.parametrize("wrong", [-0.5, -1e-9, float("nan"), float("inf")])
@pytest.mark.parametrize("least", [0.0, LEAST])
def test_a_weight_that_is_none_is_told_by_the_name_of_the_rule(wrong: float, least: float) -> None:
    """One below 0 became `least`: its task was trained no more, in silence."""

    class Own(Weighting):
        def compute(self, counts: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0, wrong if self.step else 2.0])

    Own.least = least
    rule = Own(fixed={"chat": 1.0}).bind(NAMES)
    assert rule.weights(torch.ones(4)).tolist() == [1.0, least, 2.0, 1.0]
    rule.update(torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match=r"^Own\.compute: expected finite weights >= 0, got \[1\.0, 0\.0, "):
        rule.weights(torch.ones(4))


def test_every_rule_has_its_name() -> None:
    for name, kind in {"tla": "TLA", "rlw": "RLW", "dwa": "DWA", "igbv1": "IGBv1"}.items():
        assert type(by_name(name)).__name__ == kind
    assert by_name("static", weights={"a": 2.0}).bind(["a"]).weights(torch.ones(1)).tolist() == [2.0]
    with pytest.raises(TypeError, match="windo"):
        by_name("dwa", windo=3)
