"""The linear loss is the loss of hidden @ weight.T, whatever the chunks and whatever is frozen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cotbal
from tests.laws.cases import IGNORE, Case, cases, everywhere
from tests.tolerances import LOSS, RELATIVE, assert_close, assert_gradients_close


def features_of(case: Case, width: int = 9) -> tuple[Tensor, Tensor]:
    """Hidden states (B, S, D) and a head (V, D) in the case's dtype."""
    generator = torch.Generator().manual_seed(case.labels.numel())
    hidden = torch.randn(*case.labels.shape, width, generator=generator)
    weight = torch.randn(case.logits.shape[-1], width, generator=generator)
    return hidden.to(case.logits.dtype), weight.to(case.logits.dtype)


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum"])
@given(st.data())
def test_no_further_from_float64_than_plain_torch(
    impl: str, dtype: torch.dtype, reduction: str, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype))
    cotbal.check_gradients(
        cotbal.linear_gtw_cross_entropy,
        *features_of(case),
        labels=case.labels,
        task_ids=case.task_ids,
        task_weights=case.task_weights,
        token_weights=case.token_weights,
        reduction=reduction,
        upstream=data.draw(st.sampled_from([1.0, 0.25, 3.0])),
        shift=data.draw(st.booleans()),
        impl=impl,
    )


@everywhere
@given(st.data())
def test_chunks_change_nothing(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """Chunks of one row against one chunk; sums over chunks are float32, a chunk's own products not."""
    case = data.draw(cases(dtype, token_weights=False))
    results = []
    for rows_per_chunk in (1, 1000):
        hidden, weight = (leaf.requires_grad_() for leaf in features_of(case))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("csrc_triton.logits_chunks._MIN_CHUNK_ROWS", rows_per_chunk)
            loss, stats = cotbal.linear_gtw_cross_entropy(
                hidden, weight, *case.arguments[1:], memory_budget="min", return_stats=True, impl=impl
            )
        loss.backward()
        results.append((loss, hidden.grad, weight.grad, stats))
    (loss, hidden_gradient, weight_gradient, stats), expected = results
    assert_close(loss, expected[0], LOSS[dtype])
    assert_gradients_close(hidden_gradient, expected[1], dtype)
    assert_gradients_close(weight_gradient, expected[2], dtype, roundings=2)
    assert torch.equal(stats.token_count, expected[3].token_count)
    assert torch.equal(stats.correct_count, expected[3].correct_count)
    assert_close(stats.loss_sum, expected[3].loss_sum, LOSS[dtype])


@everywhere
@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(impl: str, dtype: torch.dtype, frozen: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([3, IGNORE, 5, 1])
    hidden = torch.randn(4, 6, generator=generator).to(dtype).requires_grad_(frozen == "weight")
    weight = torch.randn(40, 6, generator=generator).to(dtype).requires_grad_(frozen == "hidden")
    loss = cotbal.linear_gtw_cross_entropy(hidden, weight, labels, impl=impl)
    expected = cotbal.linear_gtw_cross_entropy(hidden, weight, labels, impl="reference")
    assert_close(loss, expected, 4 * RELATIVE[dtype])
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        trained = hidden if frozen == "weight" else weight
        (gradient,) = torch.autograd.grad(loss, trained)
        (expected_gradient,) = torch.autograd.grad(expected, trained)
        assert_gradients_close(gradient, expected_gradient, dtype, roundings=2)


@everywhere
def test_nothing_valid_is_zero_with_its_graph(impl: str, dtype: torch.dtype) -> None:
    hidden = torch.full((3, 6), float("nan"), dtype=dtype, requires_grad=True)
    weight = torch.ones(40, 6, dtype=dtype, requires_grad=True)
    loss = cotbal.linear_gtw_cross_entropy(hidden, weight, torch.full((3,), IGNORE), impl=impl)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@everywhere
def test_ignored_rows_are_not_read(impl: str, dtype: torch.dtype) -> None:
    hidden = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    hidden[1] = float("nan")
    hidden.requires_grad_()
    weight = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    cotbal.linear_gtw_cross_entropy(hidden, weight, torch.tensor([3, IGNORE, 5, 1]), impl=impl).backward()
    assert (hidden.grad[1] == 0).all()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().max() > 0
