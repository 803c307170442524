"""A device without float64, as Apple's MPS: the numbers of a CPU come out of the same calls."""

from typing import Any

import pytest
import torch

import cotbal
from cotbal._calls import TaskStats
from cotbal._float64 import float64_device, widest_float
from cotbal.meter import TaskMeter
from cotbal.normalizer import StepNormalizer, loss_factor, task_token_counts
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from tests.balancing.rules import all_rules
from tests.no_float64 import OnDevice, device_without_float64

TASKS = ("VQAv2", "GQA", "COCO")
# Three steps of two micro-batches: what a rule makes of the steps before is in the weights.
N_STEPS = 3


def _batches() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(3, 5, 6, generator=generator),
            torch.randint(11, (3, 5), generator=generator),
            torch.tensor([0, 1, 2]),
        )
        for _ in range(2 * N_STEPS)
    ]


def _train(rule: Any, level: str, device: torch.device) -> dict[str, Any]:
    head = torch.randn(11, 6, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    balance = StepBalance(TASKS, rule, StepLoss(len(TASKS)), device=device)
    batches, denominators = _batches(), []
    for window in (batches[start : start + 2] for start in range(0, len(batches), 2)):
        for _, labels, ids in window:
            balance.normalizer.add(labels, ids)
        denominators.append(balance.begin_step(loss_factor("torch", ranks=1)))
        balance.check_trained()
        for hidden, labels, ids in ((each.to(device) for each in batch) for batch in window):
            with balance.step_loss.micro_batch(ids):
                if level == "linear":
                    loss = balance.step_loss.on_hidden(hidden, head, labels)
                else:
                    loss = balance.step_loss.on_logits(hidden @ head.T, labels)
            loss.backward()
    return {
        "denominators": torch.stack(denominators),
        "gradient": head.grad,
        "logs": balance.logs(),
        "state": balance.state_dict(),
    }


@pytest.mark.parametrize("level", ["linear", "logits"])
@pytest.mark.parametrize("name", sorted(all_rules(3)))
def test_steps_are_those_of_a_cpu(name: str, level: str) -> None:
    expected = _train(all_rules(3)[name](), level, torch.device("cpu"))
    with device_without_float64() as device:
        found = _train(all_rules(3)[name](), level, device)
    assert isinstance(found["gradient"], OnDevice)
    torch.testing.assert_close(found["gradient"].held, expected["gradient"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found["denominators"], expected["denominators"], rtol=1e-6, atol=0)
    assert found["logs"] == pytest.approx(expected["logs"], rel=1e-6)
    assert found["state"].keys() == expected["state"].keys()


@pytest.mark.parametrize("name", sorted(all_rules(3)))
def test_a_rule_in_a_loop_of_ones_own(name: str) -> None:
    """Bound on the device, it takes sums from there and returns its weights there."""
    expected = _own_loop(all_rules(3)[name](), torch.device("cpu"))
    with device_without_float64() as device:
        found = _own_loop(all_rules(3)[name](), device)
    assert isinstance(found, OnDevice)
    torch.testing.assert_close(found.held, expected, rtol=1e-6, atol=0)


def _own_loop(rule: Any, device: torch.device) -> torch.Tensor:
    rule.bind(TASKS, device)
    counts = torch.tensor([4, 3, 2]).to(device)
    for step in range(5):
        rule.weights(counts)
        rule.update(torch.tensor([9.0 - step, 7.0 + step, 1.0]).to(device), counts)
    return rule.weights(counts)


def test_counts_beyond_float32() -> None:
    """2^24 + 1 tokens are no float32."""
    with device_without_float64() as device:
        count = torch.tensor([2**24 + 1, 1]).to(device)
        sums = TaskStats(torch.tensor([1.0, 0.5]).to(device), count, count)
        normalizer, meter = StepNormalizer(2), TaskMeter(["a", "b"])
        totals = normalizer.total(sums, device)
        meter.add(sums, torch.ones(2, device=device))
        assert meter.read()["task_tokens/a"] == 2**24 + 1
        of_all = normalizer.sums(sums)
    assert totals.previous is not None
    assert totals.previous.token_count.tolist() == of_all.token_count.tolist() == [2**24 + 1, 1]


def test_token_weights_are_summed_exactly() -> None:
    labels, ids = torch.tensor([[1, 2], [3, -100]]), torch.tensor([0, 1])
    weights = torch.tensor([[0.5, 0.25], [2.0, 1.0]])
    with device_without_float64() as device:
        found = task_token_counts(labels.to(device), ids.to(device), 2, token_weights=weights.to(device))
        assert found.tolist() == [0.75, 2.0]
    assert found.dtype == torch.float64
    assert not isinstance(found, OnDevice)


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_gradients_are_checked_on_the_cpu(level: str) -> None:
    hidden, labels, ids = _batches()[0]
    head, task_weights = torch.randn(11, 6), torch.tensor([0.5, 2.0, 1.0])
    features = (hidden, head) if level == "linear" else (hidden @ head.T,)
    fn = cotbal.linear_gtw_cross_entropy if level == "linear" else cotbal.gtw_cross_entropy
    with device_without_float64() as device:
        report = cotbal.check_gradients(
            fn,
            *(each.to(device) for each in features),
            labels=labels.to(device),
            task_ids=ids.to(device),
            task_weights=task_weights.to(device),
            token_weights=torch.rand(3, 5).to(device),
        )
    assert report.ok


def test_only_mps_is_without() -> None:
    assert (float64_device("mps"), widest_float("mps")) == (torch.device("cpu"), torch.float32)
    for name in ("cpu", "cuda:1", "meta"):
        assert (float64_device(name), widest_float(name)) == (torch.device(name), torch.float64)
