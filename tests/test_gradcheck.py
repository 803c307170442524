"""`check_gradients` where plain torch has no number, and where an implementation loses its graph."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import cotbal

LOGITS, LABELS = torch.randn(6, 11, generator=torch.Generator().manual_seed(0)), torch.arange(6)
IDS, WEIGHTS = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([0.5, 2.0])
NOTHING = torch.full((6,), -100)
SOME = LABELS.masked_fill(torch.arange(6) == 2, -100)


def slightly_wrong(logits: Tensor, *arguments: Any, **options: Any) -> Any:
    return 1.001 * cotbal.gtw_cross_entropy(logits, *arguments, **options)


@pytest.mark.parametrize(
    ("logits", "tasks"),
    [
        (LOGITS, {"labels": NOTHING}),
        (LOGITS, {"labels": LABELS, "task_ids": IDS, "task_weights": torch.zeros(2)}),
        (LOGITS[:0], {"labels": LABELS[:0]}),
        (LOGITS.masked_fill(SOME[:, None] == -100, math.nan), {"labels": SOME}),
        (LOGITS, {"labels": SOME, "task_ids": IDS.where(SOME != -100, -100), "task_weights": WEIGHTS}),
    ],
    ids=["nothing valid", "weights of 0", "no rows", "NaN in an ignored row", "any id in an ignored row"],
)
def test_what_plain_torch_cannot_compute_is_no_failure(logits: Tensor, tasks: dict[str, Any]) -> None:
    assert cotbal.check_gradients(cotbal.gtw_cross_entropy, logits, **tasks).ok


def test_logits_may_be_written_over() -> None:
    options: dict[str, Any] = {"labels": SOME, "task_ids": IDS, "task_weights": WEIGHTS, "inplace": True}
    assert cotbal.check_gradients(cotbal.gtw_cross_entropy, LOGITS, **options).ok
    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(slightly_wrong, LOGITS, **options)


def test_minus_infinity_does_not_make_the_check_empty() -> None:
    logits = LOGITS.masked_fill(torch.arange(11) == 10, -math.inf)
    assert cotbal.check_gradients(cotbal.gtw_cross_entropy, logits, labels=LABELS).ok
    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(slightly_wrong, logits, labels=LABELS)
    ignored = LOGITS.masked_fill(SOME[:, None] == -100, math.nan)
    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(slightly_wrong, ignored, labels=SOME)


def test_a_gradient_that_is_lost_is_0() -> None:
    hidden, head = torch.randn(6, 4), torch.randn(11, 4)

    def without_head(hidden: Tensor, head: Tensor, *arguments: Any, **options: Any) -> Any:
        return cotbal.linear_gtw_cross_entropy(hidden, head.detach(), *arguments, **options)

    def without_graph(logits: Tensor, *arguments: Any, **options: Any) -> Any:
        return cotbal.gtw_cross_entropy(logits.detach(), *arguments, **options)

    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(without_head, hidden, head, labels=LABELS)
    with torch.no_grad(), pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(without_graph, LOGITS, labels=LABELS)


def test_statistics_beside_the_loss_are_left_alone() -> None:
    tasks = {"task_ids": IDS, "task_weights": WEIGHTS, "return_stats": True}
    assert cotbal.check_gradients(cotbal.gtw_cross_entropy, LOGITS, labels=LABELS, **tasks).ok


def test_no_gradient_is_left_with_the_caller() -> None:
    """A training step that follows would take it for its own."""
    head, weights = torch.nn.Linear(4, 11), WEIGHTS.clone().requires_grad_()
    tasks = {"labels": SOME, "task_ids": IDS, "task_weights": weights}
    fn, features = cotbal.linear_gtw_cross_entropy, (torch.randn(6, 4), head.weight)
    assert cotbal.check_gradients(fn, *features, bias=head.bias, **tasks).ok
    assert all(each.grad is None for each in (head.weight, head.bias, weights))
