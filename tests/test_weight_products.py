"""Factors of weights of which each may be right, and what float32 makes of their products not."""

from typing import Any

import pytest
import torch

import cotbal

LOGITS, LABELS = torch.randn(6, 50), torch.arange(6)
HIDDEN, HEAD = torch.randn(6, 8), torch.randn(50, 8)
IDS = torch.tensor([0, 0, 1, 1, 2, 2])
LEVELS = ("logits", "linear")


def loss_of(level: str, *arguments: Any, **options: Any) -> Any:
    if level == "logits":
        return cotbal.gtw_cross_entropy(LOGITS, *arguments, **options)
    return cotbal.linear_gtw_cross_entropy(HIDDEN, HEAD, *arguments, **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("impl", ["torch", "reference", "triton"])
def test_a_product_of_weights_that_float32_makes_0_is_refused(level: str, impl: str) -> None:
    """Its row would not be trained, in silence. Weights of 0, rows without a label and float64 lose none."""
    if impl == "triton":
        pytest.importorskip("triton")
    tokens, tasks = torch.tensor([1.0, 1.0, 1e-30, 0.0, 1e-30, 1e-30]), torch.tensor([1e-30, 1e-30, 1.0])
    arguments = {
        "labels": LABELS,
        "task_ids": IDS,
        "task_weights": tasks,
        "token_weights": tokens,
        "impl": impl,
    }
    with pytest.raises(ValueError, match=r"token_weights: expected products with task_weights above 0 in "):
        loss_of(level, **arguments)
    labels = LABELS.masked_fill(LABELS == 2, -100)
    assert 0 < loss_of(level, **arguments | {"labels": labels}) < 100
    assert 0 < loss_of(level, **arguments | {"task_weights": torch.tensor([1e-30, 0.0, 1.0])}) < 100
    if impl != "triton":
        logits = LOGITS.double().requires_grad_()
        cotbal.gtw_cross_entropy(logits, **arguments).backward()
        assert (logits.grad.abs().sum(1) > 0).tolist() == [True, True, True, False, True, True]  # type: ignore[union-attr]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("impl", ["torch", "reference", "triton"])
def test_a_product_with_a_class_weight_that_float32_makes_0_is_refused(level: str, impl: str) -> None:
    """All such rows together had a loss of 0, in silence."""
    if impl == "triton":
        pytest.importorskip("triton")
    arguments = {"labels": LABELS, "task_ids": IDS, "task_weights": torch.full((3,), 1e-30), "impl": impl}
    with pytest.raises(
        ValueError, match=r"class_weights: expected products with the weights of rows above 0"
    ):
        loss_of(level, **arguments, class_weights=torch.full((50,), 1e-30))
    assert 0 < loss_of(level, **arguments, class_weights=torch.ones(50).index_fill(0, LABELS[:1], 0.0)) < 100


@pytest.mark.parametrize("impl", ["torch", "triton", "reference"])
@pytest.mark.parametrize("level", LEVELS)
def test_weights_whose_sum_float32_does_not_hold_are_refused(level: str, impl: str) -> None:
    """Divided by infinity, loss and gradient would be 0 in silence; infinite products would make them NaN."""
    if impl == "triton":
        pytest.importorskip("triton")
    huge = torch.full((3,), 2.0**126)
    for more in ({}, {"token_weights": torch.full((6,), 2.0**60)}):
        with pytest.raises(ValueError, match=r"sum over the rows torch\.float32 can divide by"):
            loss_of(level, LABELS, IDS, huge, impl=impl, **more)
    with pytest.raises(ValueError, match=r"sum over the rows torch\.float32 can divide by"):
        loss_of(level, LABELS, IDS, huge / 64, impl=impl, class_weights=torch.full((50,), 64.0))
    for options in ({}, {"reduction": "none"}, {"denominator": torch.tensor(2.0**120)}):
        assert loss_of(level, LABELS, IDS, huge / 64, impl=impl, **options).isfinite().all()
