"""The losses as modules."""

from typing import Any

import pytest
import torch

import cotbal

LOGITS, LABELS = torch.randn(6, 50), torch.arange(6)
IDS, WEIGHTS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, 2.0, 0.5])


def test_modules_equal_their_functions_and_keep_their_weights_in_float32() -> None:
    logits, labels = torch.randn(6, 50), torch.arange(6)
    task_ids, weights = torch.arange(6) % 3, [0.1, 1.7, 2.3]
    criterion = cotbal.GTWLoss(weights, reduction="sum").to(torch.bfloat16)
    expected = cotbal.gtw_cross_entropy(logits, labels, task_ids, torch.tensor(weights), reduction="sum")
    assert torch.equal(criterion(logits, labels, task_ids), expected)
    assert torch.equal(criterion(logits, labels, task_ids, reduction="none").sum(), expected)
    assert "task_weights=[0.1" in repr(criterion)
    hidden, head = torch.randn(6, 8), torch.randn(50, 8)
    linear = cotbal.LinearGTWLoss(weights)
    expected = cotbal.linear_gtw_cross_entropy(hidden, head, labels, task_ids, torch.tensor(weights))
    assert torch.equal(linear(hidden, head, labels, task_ids), expected)
    assert torch.equal(cotbal.GTWLoss()(logits, labels), cotbal.gtw_cross_entropy(logits, labels))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a": 1.0}, TypeError, r"got dict; use TaskWeights\(...\).to_tensor\(tasks\)"),
        (cotbal.TaskWeights({"a": 1.0}), TypeError, "got TaskWeights; use"),
        ("weights.json", TypeError, "got str; use"),
        (3.0, ValueError, r"task_weights: expected shape \(N,\), got \(\)"),
        ([], ValueError, r"task_weights: expected shape \(N,\), got \(0,\)"),
        ([1.0, -1.0], ValueError, "task_weights: expected finite values >= 0"),
        ([1.0, float("nan")], ValueError, "task_weights: expected finite values >= 0"),
        ([1.0, 1e-60], ValueError, r"task_weights: expected weights that float32 holds, got \[1e-60\]"),
        (torch.ones(2, requires_grad=True), ValueError, "task_weights: .* requires grad"),
        (torch.ones(2, dtype=torch.bfloat16), TypeError, "would round.*bfloat16; pass the numbers"),
        (torch.ones(2, device="meta"), ValueError, "of the meta device, .* pass the numbers as a list"),
    ],
)
def test_a_module_checks_its_weights_when_it_is_made(weights: Any, error: type, message: str) -> None:
    for module in (cotbal.GTWLoss, cotbal.LinearGTWLoss):
        with pytest.raises(error, match=message):
            module(weights)


def test_a_module_made_in_inference_mode_trains() -> None:
    """Trainers evaluate in inference mode, often before the first step."""
    with torch.inference_mode():
        criterion = cotbal.GTWLoss(WEIGHTS)
    logits = LOGITS.clone().requires_grad_()
    criterion(logits, LABELS, IDS).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("given", [[0.5, 2.0, 1.25], torch.tensor([0.5, 2.0, 1.25])])
def test_weights_outlive_the_meta_device(given: Any) -> None:
    """`from_pretrained` makes a model there and fills in what it has saved; weights are no part of it."""
    with torch.device("meta"):
        criterion = cotbal.GTWLoss(given)
        with pytest.raises(ValueError, match="task_weights: expected finite values >= 0"):
            cotbal.GTWLoss([-1.0, 1.0])
    expected = cotbal.gtw_cross_entropy(LOGITS, LABELS, IDS, torch.tensor([0.5, 2.0, 1.25]))
    assert torch.equal(criterion(LOGITS, LABELS, IDS), expected)
