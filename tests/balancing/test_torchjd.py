"""torchjd's scalarizers as weightings, against what torchjd itself does in a plain training loop."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.scalarization import DWA as EPOCH_DWA
from torchjd.scalarization import FAMO, STCH, UW, Random, Scalarizer

from cotbal.balancing import DWA, TorchJDWeighting
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from tests.balancing.histories import NAMES
from tests.generators import of_gpus, seeds

LOSSES = 0.5 + 3 * torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
COUNTS = torch.tensor([2, 5, 1])
TASKS = NAMES[:3]


def play(rule: TorchJDWeighting) -> list[Tensor]:
    """The weights that follow each of the losses."""
    rule.bind(TASKS)
    weights = []
    for loss in LOSSES:
        rule.update(loss * COUNTS, COUNTS)
        weights.append(rule.weights(COUNTS))
    return weights


def averaging_one(u: Tensor) -> Tensor:
    return len(u) * u / u.sum()


def test_uw_trains_as_in_a_loop_of_its_own() -> None:
    theirs = UW(3)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    weights = play(TorchJDWeighting(UW(3), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5)))
    for loss, actual in zip(LOSSES, weights, strict=True):
        leaf = loss.clone().requires_grad_()
        optimizer.zero_grad()
        theirs(leaf).backward()
        torch.testing.assert_close(actual, averaging_one(leaf.grad), rtol=1e-5, atol=0)
        optimizer.step()
    assert theirs.log_var.abs().min() > 0.1


def test_parameters_are_trained_by_adam_unless_told_otherwise() -> None:
    rule = TorchJDWeighting(UW(3)).bind(TASKS)
    rule.update(LOSSES[0] * COUNTS, COUNTS)
    # Adam's first step is its learning rate, whatever the gradient.
    torch.testing.assert_close(
        rule.scalarizer.log_var.abs().detach(), torch.full((3,), 0.025), rtol=1e-4, atol=0
    )


def test_famo_is_updated_with_the_next_losses() -> None:
    theirs = FAMO(3)
    for step, (loss, actual) in enumerate(zip(LOSSES, play(TorchJDWeighting(FAMO(3))), strict=True)):
        if step:
            theirs.update(loss)
        leaf = loss.clone().requires_grad_()
        theirs(leaf).backward()
        torch.testing.assert_close(actual, averaging_one(leaf.grad), rtol=1e-5, atol=0)
    assert theirs._w.abs().min() > 0.01


@pytest.mark.parametrize("epoch_steps", [1, 3])
def test_torchjds_dwa_takes_its_epochs_from_epoch_steps(epoch_steps: int) -> None:
    """Its windows are disjoint where ours slide: equal in its first call after the second epoch."""
    ours, two_epochs = DWA(window=epoch_steps).bind(TASKS), 2 * epoch_steps
    for loss in LOSSES[:two_epochs]:
        ours.update(loss * COUNTS, COUNTS)
    theirs = play(TorchJDWeighting(EPOCH_DWA(), epoch_steps=epoch_steps))
    torch.testing.assert_close(theirs[two_epochs], ours.weights(COUNTS), rtol=1e-5, atol=0)


def test_what_random_draws_is_the_same_on_every_rank_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = play(TorchJDWeighting(Random(), seed=4))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = play(TorchJDWeighting(Random(), seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert len({tuple(weights.tolist()) for weights in first}) == len(LOSSES)
    assert not torch.equal(first[0], play(TorchJDWeighting(Random(), seed=5))[0])


class Seen(Scalarizer):
    """Draws nothing; keeps from which seeds the GPUs' generators would have drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.during: list[list[int]] = []

    def forward(self, values: Tensor, /) -> Tensor:
        self.during.append(seeds())
        return values.sum()


@pytest.mark.parametrize("index", [None, 1])
def test_it_draws_on_its_own_gpu_whichever_is_the_current_one(
    index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = of_gpus(monkeypatch)
    before = [each.get_state() for each in generators]
    rule = TorchJDWeighting(Seen()).bind(TASKS)
    # Where its state would be; what it computes stays here.
    rule.device = torch.device("cuda" if index is None else f"cuda:{index}")
    for loss in LOSSES[:2]:
        rule.observe(loss, torch.ones(3, dtype=torch.bool))
    first, second = rule.scalarizer.during
    own = index or 0
    assert [at for at, each in enumerate(first) if each != 7 + at] == [own]
    assert [at for at, each in enumerate(second) if each != 7 + at] == [own]
    assert all(torch.equal(one.get_state(), state) for one, state in zip(generators, before, strict=True))


def test_the_scalarizer_given_stays_as_it_is_and_a_second_run_starts_from_it() -> None:
    scalarizer = UW(3)
    rule = TorchJDWeighting(scalarizer)
    first, second = play(rule), play(rule)
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert scalarizer.log_var.tolist() == [0.0, 0.0, 0.0]


def test_gradients_are_taken_where_autograd_is_off() -> None:
    with torch.no_grad():
        weights = play(TorchJDWeighting(UW(3)))
    assert torch.equal(torch.stack(weights), torch.stack(play(TorchJDWeighting(UW(3)))))


class Bad(Scalarizer):
    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.factors = torch.tensor(factors)

    def forward(self, values: Tensor, /) -> Tensor:
        return (values * self.factors).sum()


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        return self.bias


@pytest.mark.parametrize(
    "scalarizer",
    [Bad([1.0, -0.5, 1.0]), Bad([0.0] * 3), Bad([1.0, torch.nan, 1.0]), Bad([torch.inf, 1.0, 1.0]), Deaf()],
)
def test_derivatives_that_are_no_weights_raise(scalarizer: nn.Module) -> None:
    expected = rf"TorchJDWeighting\({type(scalarizer).__name__}\): expected finite derivatives >= 0"
    with pytest.raises(ValueError, match=expected):
        play(TorchJDWeighting(scalarizer))


def test_a_derivative_of_zero_for_some_tasks_is_a_weight() -> None:
    assert play(TorchJDWeighting(Bad([0.0, 1.0, 3.0])))[0].tolist() == [2.0**-64, 0.75, 2.25]


def test_a_task_whose_derivative_is_0_is_measured_on() -> None:
    """Else the maximum would go on from a loss that has long been another."""
    balance = StepBalance(["a", "b"], TorchJDWeighting(STCH(mu=0.001)), StepLoss(2))
    labels, ids = torch.zeros(2, 1, dtype=torch.int64), torch.tensor([0, 1])
    for margins in ([-3.0, 3.0], [-3.0, -9.0]):
        logits = torch.stack([torch.tensor(margins), torch.zeros(2)], 1).unsqueeze(1)
        balance.normalizer.add(labels, ids, shift=False)
        balance.begin_step(1)
        with balance.step_loss.micro_batch(ids):
            loss = balance.step_loss.on_logits(logits, labels, shift=False)
    # Its weight teaches nothing all the same.
    assert float(loss) == pytest.approx(math.log1p(math.exp(3)), rel=1e-6)
    assert balance.logs()["task_loss/b"] == pytest.approx(4.5, abs=0.1)
    assert balance.weighting.weights(COUNTS[:2]).tolist() == [2.0**-64, 2.0]


@pytest.mark.parametrize(
    ("scalarizer", "options", "error", "message"),
    [
        (EPOCH_DWA(), {}, ValueError, "epoch_steps: expected a number of steps >= 1"),
        (EPOCH_DWA(), {"epoch_steps": 0}, ValueError, "epoch_steps: expected"),
        (STCH(1.0), {"epoch_steps": 5}, ValueError, "None for others, got 5 for STCH"),
        ("UW", {}, TypeError, "scalarizer: expected an object of torchjd.scalarization, got 'UW'"),
        (lambda losses: losses.sum(), {}, TypeError, "scalarizer: expected an object"),
    ],
)
def test_wrong_arguments_are_refused(
    scalarizer: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TorchJDWeighting(scalarizer, **options)


def test_one_parameter_too_few_is_torchjds_own_error() -> None:
    with pytest.raises(ValueError, match="log-variances"):
        play(TorchJDWeighting(UW(2)))


def test_what_json_cannot_hold_is_refused_when_it_is_saved() -> None:
    scalarizer = STCH(1.0)
    scalarizer.memory = {1.5, 2.5}
    rule = TorchJDWeighting(scalarizer).bind(TASKS)
    with pytest.raises(TypeError, match=r"\['memory'\]: expected tensors, numbers, .* got set"):
        rule.state_dict()


def test_the_state_is_plain_json() -> None:
    rule = TorchJDWeighting(FAMO(3))
    play(rule)
    state = rule.state_dict()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    # The internal optimizer of FAMO is in it.
    assert state["scalarizer"]["attributes"]["_optimizer"]["state"]["0"]["step"]["values"] == len(LOSSES) - 1
