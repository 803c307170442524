"""`accumulate_weight_grad=True`: dW is in `weight.grad` before the backward pass, and must still be then."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import cotbal
from tests.tolerances import assert_gradients_close

fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
LABELS = torch.tensor([3, -100, 39, 0, 12, 3])
IDS = torch.tensor([0, 0, 1, 1, 2, 2])


def leaves_of_a_loss() -> list[Tensor]:
    """Hidden states, head and task weights."""
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(rows, 5, generator=generator) for rows in (6, 40)]
    leaves.append(torch.tensor([0.5, 2.0, 1.25]))
    return [leaf.requires_grad_() for leaf in leaves]


@fast_impl
def test_an_accumulated_weight_gradient_has_one_backward(impl: str) -> None:
    """It was added to weight.grad in the forward pass; a second backward has nothing to add."""
    leaves = leaves_of_a_loss()
    leaves[1].grad = torch.zeros_like(leaves[1])
    loss = cotbal.linear_gtw_cross_entropy(
        *leaves[:2], LABELS, IDS, leaves[2], impl=impl, accumulate_weight_grad=True
    )
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="accumulate_weight_grad"):
        loss.backward()


@fast_impl
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_weight_gradient_that_zero_grad_loses_raises(impl: str, set_to_none: bool) -> None:
    """dW was in it already: the head would be trained on nothing, in silence, from the second step on."""
    leaves = leaves_of_a_loss()
    optimizer = torch.optim.SGD([leaves[1]], lr=0.1)

    def loss_of() -> Any:
        return cotbal.linear_gtw_cross_entropy(
            *leaves[:2], LABELS, IDS, leaves[2], impl=impl, accumulate_weight_grad=True
        )

    loss = loss_of()
    # There is none to be added to yet.
    optimizer.zero_grad(set_to_none)
    loss.backward()
    first, second = loss_of(), loss_of()
    second.backward()
    first.backward()
    loss = loss_of()
    optimizer.zero_grad(set_to_none)
    with pytest.raises((RuntimeError, ValueError), match="call zero_grad before the loss"):
        loss.backward()


@fast_impl
@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_weight_gradient_that_is_lost_between_two_losses_raises(
    impl: str, set_to_none: bool, order: tuple[int, int]
) -> None:
    """The second adds its own to the same rows, in which the first one's is looked for."""
    leaves = leaves_of_a_loss()
    leaves[1].grad = torch.zeros_like(leaves[1])
    optimizer = torch.optim.SGD([leaves[1]], lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad(set_to_none)
        leaves[1].grad = torch.zeros_like(leaves[1]) if leaves[1].grad is None else leaves[1].grad
        losses.append(
            cotbal.linear_gtw_cross_entropy(
                *leaves[:2], LABELS, IDS, leaves[2], impl=impl, accumulate_weight_grad=True
            )
        )
    for place in order:
        if place == 1:
            losses[1].backward()
        else:
            with pytest.raises((RuntimeError, ValueError), match="call zero_grad before the loss"):
                losses[0].backward()


@fast_impl
def test_a_lost_weight_gradient_is_seen_where_most_of_it_was(impl: str) -> None:
    """dW is 0 for class 0, whose probability is exactly 0, and for the label of a row of weight 0."""
    hidden, head = torch.ones(3, 5, requires_grad=True), torch.zeros(40, 5)
    head[[0, 7]] = -100.0
    head = head.requires_grad_()
    head.grad = torch.zeros_like(head)
    loss = cotbal.linear_gtw_cross_entropy(
        hidden,
        head,
        torch.tensor([7, 3, -100]),
        token_weights=torch.tensor([0.0, 1.0, 1.0]),
        impl=impl,
        accumulate_weight_grad=True,
    )
    assert not head.grad[[0, 7]].any()
    head.grad.zero_()
    with pytest.raises(ValueError, match="call zero_grad before the loss"):
        loss.backward()


@fast_impl
@pytest.mark.parametrize("labels", [[], [-100, -100]])
def test_without_a_row_no_weight_gradient_is_lost(impl: str, labels: list[int]) -> None:
    hidden, head = torch.randn(len(labels), 5, requires_grad=True), torch.randn(40, 5, requires_grad=True)
    head.grad = torch.zeros_like(head)
    labels = torch.tensor(labels, dtype=torch.int64)
    cotbal.linear_gtw_cross_entropy(hidden, head, labels, impl=impl, accumulate_weight_grad=True).backward()
    assert not head.grad.any()


@pytest.mark.parametrize("is_autocast", [False, True])
def test_hooks_of_a_weight_that_accumulates(is_autocast: bool) -> None:
    """One that is given the gradient would be called with None; one after it sees all of `weight.grad`, or
    is refused where torch would not call it."""
    hidden, head = torch.randn(6, 5), torch.randn(40, 5, requires_grad=True)
    seen: list[Tensor] = []
    head.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone()))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            loss = cotbal.linear_gtw_cross_entropy(hidden, head, LABELS, accumulate_weight_grad=True)
        loss.backward()

    if torch.__version__ < "2.7":
        with pytest.raises(ValueError, match="calls only for a gradient of a backward pass"):
            run()
        return
    for calls in (1, 2):
        run()
        assert len(seen) == calls
        assert torch.equal(seen[-1], head.grad)
    assert_gradients_close(seen[1], 2 * seen[0], torch.bfloat16 if is_autocast else torch.float32)
    hook = head.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(ValueError, match="register_post_accumulate_grad_hook"):
        run()
    hook.remove()
    run()
    assert len(seen) == 3


def test_a_checkpoint_does_not_accumulate_twice() -> None:
    """Its recomputation is a second forward pass, which would add dW to weight.grad once more."""
    leaves = leaves_of_a_loss()
    leaves[1].grad = torch.zeros_like(leaves[1])

    def loss_of(hidden: Tensor) -> Any:
        return cotbal.linear_gtw_cross_entropy(hidden, leaves[1], LABELS, accumulate_weight_grad=True)

    loss = checkpoint(loss_of, leaves[0], use_reentrant=False)
    with pytest.raises(ValueError, match="not in a checkpoint"):
        loss.backward()
