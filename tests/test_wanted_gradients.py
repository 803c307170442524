"""`torch.autograd.grad` and `backward(inputs=...)` ask for some of the gradients: no work for the others."""

import pytest
import torch

import cotbal
from cotbal import linear_ops
from tests.csrc_triton.tally import Tally

LABELS = torch.tensor([3, -100, 39, 0, 12, 3])


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_gradient_that_is_not_asked_for_costs_nothing(
    reduction: str, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass over the head's, nor its product where the rows go through the products anew."""
    hidden, head = (torch.randn(rows, 8, requires_grad=True) for rows in (6, 400))
    loss = cotbal.linear_gtw_cross_entropy(hidden, head, LABELS, impl="torch", reduction=reduction)
    above = torch.full_like(loss, 2.0)
    (expected, _) = torch.autograd.grad(loss, (hidden, head), above, retain_graph=True)
    calls, forward = [], linear_ops.linear_gtw_cross_entropy_forward
    monkeypatch.setattr(
        linear_ops,
        "linear_gtw_cross_entropy_forward",
        lambda *args, **options: calls.append(options) or forward(*args, **options),
    )
    with Tally(large=head.numel()) as tally:
        (got,) = torch.autograd.grad(loss, hidden, above, retain_graph=is_kept)
    assert torch.equal(got, expected)
    assert not tally.passes
    assert tally.names.count("cotbal.scale_.default") == (reduction == "sum")
    assert [each["needs_weight_gradient"] for each in calls] == [False] * (reduction == "none")
