"""What must hold for every input, whatever the implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cotbal
from tests.laws.cases import IGNORE, Case, cases, everywhere, of_itself
from tests.tolerances import LOSS, assert_close, assert_gradients_close, assert_losses_close


def loss_and_gradient(case: Case, impl: str, **options: object) -> tuple[Tensor, Tensor]:
    logits = case.logits.detach().clone().requires_grad_()
    loss = cotbal.gtw_cross_entropy(
        logits,
        case.labels,
        case.task_ids,
        case.task_weights,
        token_weights=case.token_weights,
        impl=impl,
        **options,
    )
    loss.backward(torch.ones_like(loss))
    return loss.detach(), logits.grad


@everywhere
@given(st.data())
def test_weights_of_one_equal_torch(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype, token_weights=False))
    case = case.replace(task_weights=torch.ones_like(case.task_weights))
    loss, gradient = loss_and_gradient(case, impl)
    logits = case.logits.double().requires_grad_()
    expected = F.cross_entropy(logits.flatten(0, 1), case.labels.flatten(), ignore_index=IGNORE)
    expected.backward()
    assert_losses_close(loss, expected, case.logits)
    assert_gradients_close(gradient, logits.grad, dtype)


@everywhere
@given(st.data())
def test_equals_equation_2_written_out(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """Sums over rows in a Python loop, float64: independent of the reference."""
    case = data.draw(cases(dtype))
    logits = case.logits.double().requires_grad_()
    numerator, denominator = torch.zeros((), dtype=torch.float64), 0.0
    for b, s in torch.nonzero(case.labels != IGNORE).tolist():
        weight = float(case.weights[b, s])
        if weight > 0:
            numerator = numerator - weight * logits[b, s].log_softmax(0)[case.labels[b, s]]
        denominator += weight
    (numerator / denominator).backward()
    loss, gradient = loss_and_gradient(case, impl)
    assert_losses_close(loss, numerator / denominator, case.logits)
    assert_gradients_close(gradient, logits.grad, dtype)


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@given(st.data())
def test_no_further_from_float64_than_plain_torch(
    impl: str, dtype: torch.dtype, reduction: str, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype))
    cotbal.check_gradients(
        cotbal.gtw_cross_entropy,
        case.logits,
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
def test_stats_equal_the_reference(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    options = {"token_weights": case.token_weights, "return_stats": True}
    _, stats = cotbal.gtw_cross_entropy(*case.arguments, impl=impl, **options)
    _, expected = cotbal.gtw_cross_entropy(*case.arguments, impl="reference", **options)
    assert_losses_close(stats.loss_sum, expected.loss_sum, case.logits, case.labels.numel())
    assert torch.equal(stats.token_count, expected.token_count)
    assert torch.equal(stats.correct_count, expected.correct_count)
    read = (case.weights > 0).flatten()
    assert torch.equal(stats.token_count, case.task_ids.flatten()[read].bincount(minlength=case.n_tasks))
    argmax = case.logits.argmax(-1).flatten() == case.labels.flatten()
    counted = case.task_ids.flatten()[read & argmax].bincount(minlength=case.n_tasks)
    assert torch.equal(stats.correct_count, counted)


@of_itself
@pytest.mark.parametrize("mode", ["sum", "denominator"])
@given(st.data())
def test_linear_in_the_weights(impl: str, dtype: torch.dtype, mode: str, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    options = {"reduction": "sum"} if mode == "sum" else {"denominator": torch.tensor(2.5)}
    other = case.task_weights.flip(0) + 0.5
    parts = [
        loss_and_gradient(case, impl, **options),
        loss_and_gradient(case.replace(task_weights=other), impl, **options),
    ]
    whole = loss_and_gradient(case.replace(task_weights=2 * case.task_weights + 0.5 * other), impl, **options)
    # Three roundings instead of one, of losses that are not divided by their weights.
    total = float((2 * case.weights.max() + 0.5 * other.max()) * case.labels.numel())
    assert_losses_close(whole[0], 2 * parts[0][0] + 0.5 * parts[1][0], case.logits, 3 * total)
    assert_gradients_close(
        whole[1], 2 * parts[0][1].double() + 0.5 * parts[1][1].double(), dtype, roundings=3
    )


@of_itself
@given(st.data())
def test_scaling_all_weights_changes_nothing(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    loss, gradient = loss_and_gradient(case, impl)
    scaled_loss, scaled_gradient = loss_and_gradient(case.replace(task_weights=case.task_weights * 7), impl)
    assert_losses_close(scaled_loss, loss, case.logits)
    assert_gradients_close(scaled_gradient, gradient, dtype)


@of_itself
@given(st.data())
def test_relabelling_tasks_changes_nothing(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    order = torch.tensor(data.draw(st.permutations(range(case.n_tasks))))
    weights = torch.empty_like(case.task_weights)
    weights[order] = case.task_weights
    relabelled = case.replace(task_ids=order[case.task_ids], task_weights=weights)
    for got, expected in zip(loss_and_gradient(relabelled, impl), loss_and_gradient(case, impl), strict=True):
        assert torch.equal(got, expected)


@of_itself
@given(st.data())
def test_permuting_rows_permutes_the_gradient(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype, token_weights=False))
    order = torch.tensor(data.draw(st.permutations(range(case.labels.shape[1]))))
    permuted = case.replace(
        logits=case.logits[:, order], labels=case.labels[:, order], task_ids=case.task_ids[:, order]
    )
    loss, gradient = loss_and_gradient(case, impl)
    permuted_loss, permuted_gradient = loss_and_gradient(permuted, impl)
    assert_losses_close(permuted_loss, loss, case.logits)
    assert_gradients_close(permuted_gradient, gradient[:, order], dtype)


@of_itself
@given(st.data())
def test_micro_batches_add_up_under_the_denominator_of_the_step(
    impl: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype, token_weights=False))
    whole_loss, whole_gradient = loss_and_gradient(case, impl)
    denominator = case.weights.sum().to(case.task_weights.dtype)
    parts = [
        loss_and_gradient(
            Case(case.logits[b], case.labels[b], case.task_ids[b], case.task_weights, None),
            impl,
            denominator=denominator,
        )
        for b in range(case.labels.shape[0])
    ]
    assert_losses_close(sum(loss for loss, _ in parts), whole_loss, case.logits)
    assert_gradients_close(torch.stack([gradient for _, gradient in parts]), whole_gradient, dtype)


@everywhere
@given(st.data())
def test_rows_of_weight_zero_are_not_read(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype, token_weights=False))
    case = case.replace(task_weights=torch.cat([case.task_weights, torch.zeros_like(case.task_weights[:1])]))
    dropped = torch.zeros_like(case.labels, dtype=torch.bool)
    dropped[0, 1] = True
    case = case.replace(task_ids=case.task_ids.masked_fill(dropped, case.n_tasks - 1))
    case.labels[0, 1] = 1
    loss, gradient = loss_and_gradient(case, impl)
    poisoned = case.replace(logits=case.logits.masked_fill(dropped[..., None], float("nan")))
    poisoned_loss, poisoned_gradient = loss_and_gradient(poisoned, impl)
    assert torch.equal(poisoned_loss, loss)
    assert torch.equal(poisoned_gradient, gradient)
    assert (poisoned_gradient[0, 1] == 0).all()


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@pytest.mark.parametrize("why", ["ignored", "weight 0", "no rows"])
def test_nothing_valid_is_zero_with_its_graph(
    impl: str, dtype: torch.dtype, reduction: str, why: str
) -> None:
    n_rows = 0 if why == "no rows" else 3
    logits = torch.full((n_rows, 40), float("nan"), dtype=dtype, requires_grad=True)
    labels = torch.full((n_rows,), IGNORE if why == "ignored" else 1)
    task_weights = torch.tensor([0.0 if why == "weight 0" else 1.0])
    loss, stats = cotbal.gtw_cross_entropy(
        logits,
        labels,
        torch.zeros_like(labels),
        task_weights,
        reduction=reduction,
        impl=impl,
        return_stats=True,
    )
    assert loss.requires_grad
    assert (loss == 0).all()
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert stats.loss_sum.tolist() == [0.0]
    assert stats.token_count.tolist() == [0]


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_an_infinite_loss_of_weight_0_adds_nothing_where_the_weights_want_a_gradient(
    impl: str, reduction: str, bad: float
) -> None:
    """What it is shows where it belongs: in the gradient of its own weight."""
    logits = torch.zeros(3, 40)
    logits[1, 0] = bad
    logits.requires_grad_()
    labels, task_ids = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0])
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = cotbal.gtw_cross_entropy(logits, labels, task_ids, weights, reduction=reduction, impl=impl)
    each = math.log(40)
    expected = {"weighted_mean": each, "sum": 2 * each, "none": [each, 0.0, each]}[reduction]
    assert torch.allclose(loss, torch.tensor(expected, dtype=loss.dtype), rtol=1e-5, atol=0)
    loss.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all()
    assert weights.grad is not None
    assert weights.grad[0].item() == pytest.approx(0 if reduction == "weighted_mean" else 2 * each, abs=1e-5)
    assert weights.grad[1].isnan() if math.isnan(bad) else weights.grad[1] == math.inf


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_a_task_that_is_absent_has_no_part_in_an_infinite_loss(impl: str, bad: float) -> None:
    logits = torch.zeros(2, 40)
    logits[1, 0] = bad
    weights = torch.ones(3, requires_grad=True)
    loss = cotbal.gtw_cross_entropy(
        logits.requires_grad_(),
        torch.zeros(2, dtype=torch.int64),
        torch.tensor([0, 1]),
        weights,
        impl=impl,
    )
    assert loss.isnan() if math.isnan(bad) else loss == math.inf
    loss.backward()
    assert weights.grad is not None
    assert weights.grad[2] == 0


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("why", ["weight", "class weight"])
def test_under_a_denominator_of_0_no_row_adds_anything(impl: str, why: str) -> None:
    """Neither to a gradient, though the loss of a row that is read is NaN."""
    logits = torch.zeros(2, 40)
    logits[1, 3] = math.nan
    logits.requires_grad_()
    weights = torch.tensor([0.0 if why == "weight" else 1.0], requires_grad=True)
    class_weights = torch.ones(40).index_fill_(0, torch.tensor([0]), 0.0)
    loss = cotbal.gtw_cross_entropy(
        logits,
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
        weights,
        class_weights=class_weights if why == "class weight" else None,
        label_smoothing=0.1,
        impl=impl,
    )
    assert loss == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    assert weights.grad is not None
    assert (weights.grad == 0).all()


@of_itself
@given(st.data())
def test_same_bits_every_time(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    for first, second in zip(loss_and_gradient(case, impl), loss_and_gradient(case, impl), strict=True):
        assert torch.equal(first, second)


@of_itself
@given(st.data())
def test_rows_need_not_be_contiguous(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    batch, length, n_cols = case.logits.shape
    wide = torch.full((batch, length, 2, n_cols + 5), float("nan"), dtype=dtype)
    wide[:, :, 0, 3 : n_cols + 3] = case.logits
    column_major = case.logits.flatten(0, 1).t().contiguous().t().unflatten(0, (batch, length))
    expected = loss_and_gradient(case, impl)
    for view in (wide[:, :, 0, 3 : n_cols + 3], column_major):
        assert batch * length == 1 or not view.is_contiguous()
        leaf = view.detach().requires_grad_()
        loss = cotbal.gtw_cross_entropy(
            leaf, *case.arguments[1:], token_weights=case.token_weights, impl=impl
        )
        loss.backward()
        # A row that starts elsewhere in a word is summed in another order.
        assert_losses_close(loss.detach(), expected[0], case.logits)
        assert_gradients_close(leaf.grad, expected[1], dtype)


@of_itself
@given(st.data())
def test_an_id_per_sample_is_an_id_per_token(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    per_sample = case.task_ids[:, 0].clone()
    per_token = per_sample[:, None].expand(case.labels.shape)
    expected = cotbal.gtw_cross_entropy(
        case.logits, case.labels, per_token, case.task_weights + 0.1, impl=impl
    )
    got = cotbal.gtw_cross_entropy(case.logits, case.labels, per_sample, case.task_weights + 0.1, impl=impl)
    assert torch.equal(got, expected)


@of_itself
@given(st.data())
def test_shift_takes_everything_from_the_next_position(
    impl: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype))
    tokens = None if case.token_weights is None else case.token_weights[:, 1:]
    by_hand = Case(case.logits[:, :-1], case.labels[:, 1:], case.task_ids[:, 1:], case.task_weights, tokens)
    loss, gradient = loss_and_gradient(case, impl, shift=True)
    expected_loss, expected_gradient = loss_and_gradient(by_hand, impl)
    assert_losses_close(loss, expected_loss, case.logits)
    assert_gradients_close(gradient[:, :-1], expected_gradient, dtype)
    assert (gradient[:, -1] == 0).all()
    rows = cotbal.gtw_cross_entropy(*case.arguments, shift=True, reduction="none", impl=impl)
    assert rows.shape == case.labels.shape
    assert (rows[:, -1] == 0).all()


@everywhere
@pytest.mark.parametrize("value", [-math.inf, -1e4, 1e4])
@given(st.data())
def test_extreme_logits_off_the_label(
    impl: str, dtype: torch.dtype, value: float, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype, token_weights=False))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    extreme = torch.rand(case.logits.shape, generator=generator) < data.draw(st.sampled_from([0.2, 0.9, 1.0]))
    extreme.scatter_(2, case.labels.clamp(min=0)[..., None], value=False)
    logits = case.logits.masked_fill(extreme, value)
    exact = logits.double().requires_grad_()
    losses = F.cross_entropy(
        exact.flatten(0, 1), case.labels.flatten(), reduction="none", ignore_index=IGNORE
    )
    expected = (losses * case.weights.flatten()).sum() / case.weights.sum()
    expected.backward()
    loss, gradient = loss_and_gradient(case.replace(logits=logits), impl)
    # The extremes either vanish or are the loss itself, so the ordinary logits set the rounding.
    assert_close(loss, expected, LOSS[dtype], LOSS[dtype] * case.logits.double().abs().max().item())
    assert_gradients_close(gradient, exact.grad, dtype)


@everywhere
@pytest.mark.parametrize("value", [math.inf, math.nan])
@given(st.data())
def test_infinity_and_nan_in_a_row_that_counts_give_nan(
    impl: str, dtype: torch.dtype, value: float, data: st.DataObject
) -> None:
    case = data.draw(cases(dtype))
    case.logits[0, 0, data.draw(st.integers(0, case.logits.shape[-1] - 1))] = value
    loss, gradient = loss_and_gradient(case, impl)
    assert loss.isnan()
    assert gradient[0, 0].isnan().all()


@everywhere
@given(st.data())
def test_labels_and_ids_out_of_range_raise(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in case.labels.shape)
    n_cols = case.logits.shape[-1]
    labels, task_ids = case.labels.clone(), case.task_ids.clone()
    labels[place] = data.draw(st.sampled_from([-1, -101, n_cols, n_cols + 7]))
    with pytest.raises(ValueError, match="labels: expected values in"):
        loss_and_gradient(case.replace(labels=labels), impl)
    labels[place] = 0
    task_ids[place] = data.draw(st.sampled_from([-1, IGNORE, case.n_tasks]))
    with pytest.raises(ValueError, match="task_ids: expected values in"):
        loss_and_gradient(case.replace(labels=labels, task_ids=task_ids), impl)
