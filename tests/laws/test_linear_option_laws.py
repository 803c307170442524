"""Every option of the linear loss equals its formula in float64, and what only this level has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cotbal
from tests.laws.cases import IGNORE, Case, everywhere
from tests.laws.options import Allowed, Options, exact, option_cases
from tests.tolerances import FLOOR, LOSS, RELATIVE, assert_close, assert_gradients_close

seldom = settings(max_examples=settings.default.max_examples // 4)
WIDTH = 9
ONE = torch.ones((), dtype=torch.float64)


def head_of(case: Case, *, has_bias: bool, seed: int = 0) -> list[Tensor]:
    """hidden (B, S, D), weight (V, D) and perhaps bias (V,) in the case's dtype; logits of a few units."""
    generator = torch.Generator().manual_seed(seed)
    n_cols, dtype = case.logits.shape[-1], case.logits.dtype
    hidden = torch.randn(*case.labels.shape, WIDTH, generator=generator)
    weight = 0.7 * torch.randn(n_cols, WIDTH, generator=generator)
    bias = [torch.randn(n_cols, generator=generator)] if has_bias else []
    return [feature.to(dtype) for feature in (hidden, weight, *bias)]


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return hidden @ weight.t() if bias is None else hidden @ weight.t() + bias


def loss_of(features: list[Tensor], case: Case, o: Options, impl: str, **more: object) -> Tensor:
    hidden, weight, *bias = features
    return cotbal.linear_gtw_cross_entropy(
        hidden,
        weight,
        case.labels,
        case.task_ids,
        more.pop("task_weights", case.task_weights),
        bias=bias[0] if bias else None,
        token_weights=case.token_weights,
        impl=impl,
        **o.arguments,
        **more,
    )


def leaves_of(features: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [feature.detach().to(dtype or feature.dtype).clone().requires_grad_() for feature in features]


def assert_equals_the_formula(
    features: list[Tensor], case: Case, o: Options, impl: str, upstream: Tensor, **more: object
) -> None:
    """Loss and gradients in hidden, weight, bias and task weights, each against float64."""
    dtype = case.logits.dtype
    doubles = leaves_of([*features, case.task_weights], torch.float64)
    expected = exact(logits_of(*doubles[:-1]), case, o, doubles[-1])
    upstream = upstream.expand_as(expected.loss)
    expected.loss.backward(upstream)
    hidden, weight, *bias = (feature.detach().double() for feature in features)
    terms = hidden.abs() @ weight.abs().t() + (bias[0].abs() if bias else 0)
    allowed = Allowed(expected, upstream, dtype, noise=float(terms.max()))
    *leaves, task_weights = leaves_of([*features, case.task_weights])
    loss = loss_of(leaves, case, o, impl, task_weights=task_weights, **more)
    loss.backward(upstream.to(loss.dtype))
    assert loss.dtype == task_weights.dtype
    assert_close(loss, expected.loss, 0, allowed.loss())
    slopes = allowed.slopes()
    errors = [slopes @ weight.abs(), slopes.flatten(0, 1).t() @ hidden.flatten(0, 1).abs()]
    errors += [slopes.flatten(0, 1).sum(0)] if bias else []
    for leaf, double, error in zip(leaves, doubles, errors, strict=False):
        assert_close(leaf.grad, double.grad, RELATIVE[dtype], FLOOR[dtype] + float(error.max()))
    assert_close(task_weights.grad, doubles[-1].grad, 0, allowed.task_weights())


@everywhere
@given(st.data())
def test_any_options_equal_the_formula(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case, o = data.draw(option_cases(dtype))
    upstream = data.draw(st.sampled_from([1.0, 0.25, -3.0])) * ONE
    if o.reduction == "none":
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
        upstream = torch.randn(case.labels.shape, generator=generator).double()
    features = head_of(case, has_bias=data.draw(st.booleans()), seed=data.draw(st.integers(0, 2**31)))
    assert_equals_the_formula(features, case, o, impl, upstream)


def rows_of(dtype: torch.dtype, length: int = 6) -> Case:
    """Twice `length` rows, three in four of which count; a vocabulary that is no multiple of anything."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(37, (2, length), generator=generator)
    labels[torch.rand(2, length, generator=generator) < 0.25] = IGNORE
    task_ids = torch.randint(3, (2, length), generator=generator)
    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    task_weights = torch.tensor([0.5, 2.0, 1.25], dtype=weight_dtype)
    tokens = (0.5 + torch.rand(2, length, generator=generator)).to(weight_dtype)
    return Case(torch.zeros(2, length, 37, dtype=dtype), labels, task_ids, task_weights, tokens)


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "none"])
@pytest.mark.parametrize("memory_budget", ["min", None])
def test_options_go_through_the_chunks(
    impl: str, dtype: torch.dtype, reduction: str, memory_budget: str | None
) -> None:
    """A chunk is 64 rows or more: this is two of them under "min"."""
    case = rows_of(dtype, 50)
    generator = torch.Generator().manual_seed(6)
    weights = (0.25 + torch.rand(37, generator=generator)).to(case.task_weights.dtype)
    o = Options(0.1, 1e-3, 20.0, weights, reduction=reduction)
    upstream = torch.randn(2, 50, generator=generator).double() if reduction == "none" else 0.25 * ONE
    features = head_of(case, has_bias=True)
    assert_equals_the_formula(features, case, o, impl, upstream, memory_budget=memory_budget)


@everywhere
@seldom
@given(st.data())
def test_rows_with_an_upstream_gradient_each(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """Gradients of "none" are those of the sum with it as a token weight: those of W and b too."""
    case, o = data.draw(option_cases(dtype))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    upstream = 0.5 + torch.rand(case.labels.shape, generator=generator).to(case.task_weights.dtype)
    upstream[0, 0] = 0
    features = head_of(case, has_bias=data.draw(st.booleans()))
    leaves, expected = leaves_of(features), leaves_of(features)
    loss_of(leaves, case, o.replace(reduction="none", denominator=None), impl).backward(upstream)
    # What reaches position t from above weighs the token at t + 1 where labels are shifted.
    tokens = upstream.roll(1, 1) if o.shift else upstream
    tokens = tokens if case.token_weights is None else tokens * case.token_weights
    by_sum = o.replace(reduction="sum", denominator=None)
    loss_of(expected, case.replace(token_weights=tokens), by_sum, impl).backward()
    for leaf, other in zip(leaves, expected, strict=True):
        assert_gradients_close(leaf.grad, other.grad, dtype, roundings=4)


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@pytest.mark.parametrize(
    "trained", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=lambda names: "".join("XWb"[n] for n in names)
)
def test_what_is_frozen_changes_nothing_for_the_rest(
    impl: str, dtype: torch.dtype, reduction: str, trained: tuple[int, ...]
) -> None:
    case = rows_of(dtype)
    o = Options(0.1, 1e-3, 20.0, reduction=reduction)
    features = head_of(case, has_bias=True)
    everything = leaves_of(features)
    upstream = torch.rand(case.labels.shape) if reduction == "none" else torch.ones(())
    upstream = upstream.to(case.task_weights.dtype)
    loss_of(everything, case, o, impl).backward(upstream)
    partly = [leaf.detach().requires_grad_(n in trained) for n, leaf in enumerate(leaves_of(features))]
    loss_of(partly, case, o, impl).backward(upstream)
    for n, (leaf, expected) in enumerate(zip(partly, everything, strict=True)):
        if n in trained:
            assert_gradients_close(leaf.grad, expected.grad, dtype, roundings=2)
        else:
            assert leaf.grad is None


@everywhere
def test_statistics_of_the_linear_loss(impl: str, dtype: torch.dtype) -> None:
    case = rows_of(dtype, 20)
    o = Options(0.1, 1e-3, 20.0)
    features = head_of(case, has_bias=True)
    logits = logits_of(*(feature.double() for feature in features))
    # Every second row is a hit: by chance hardly any would be.
    hits = torch.arange(20) % 2 == 0
    case = case.replace(labels=torch.where(hits & (case.labels != IGNORE), logits.argmax(-1), case.labels))
    expected = exact(logits, case, o, case.task_weights.double())
    _, stats = loss_of(features, case, o, impl, return_stats=True)
    in_task = (case.task_ids[..., None] == torch.arange(3)) & expected.read[..., None]
    sums = (in_task * (case.token_weights.double() * expected.rows)[..., None]).sum((0, 1))
    assert_close(stats.loss_sum, sums, LOSS[dtype] + RELATIVE[dtype])
    assert stats.token_count.tolist() == in_task.sum((0, 1)).tolist()
    if dtype in (torch.float64, torch.float32):
        counts = (in_task & expected.correct[..., None]).sum((0, 1))
        assert counts.sum() > 8
        assert stats.correct_count.tolist() == counts.tolist()


@everywhere
@pytest.mark.parametrize("surplus", [0, 1, 10_000])
@pytest.mark.parametrize("nothing", [False, True], ids=["some rows", "no valid row"])
def test_a_valid_count_changes_nothing(impl: str, dtype: torch.dtype, surplus: int, nothing: bool) -> None:
    """Exact, one too many, and far more than there are rows."""
    case, o = rows_of(dtype), Options(label_smoothing=0.1, z_loss=1e-3, shift=True)
    case = case.replace(labels=torch.full_like(case.labels, IGNORE)) if nothing else case
    # After the shift the first position is nobody's target.
    count = int((case.labels[:, 1:] != IGNORE).sum()) + surplus
    features = head_of(case, has_bias=True)
    with_count, without = leaves_of(features), leaves_of(features)
    loss = loss_of(with_count, case, o, impl, valid_count=count)
    expected = loss_of(without, case, o, impl)
    loss.backward()
    expected.backward()
    assert_close(loss, expected, LOSS[dtype], LOSS[dtype])
    for leaf, other in zip(with_count, without, strict=True):
        assert_gradients_close(leaf.grad, other.grad, dtype, roundings=2)


@everywhere
@pytest.mark.parametrize("wrong", [-1, 0, 1, "one too few"])
def test_a_valid_count_that_is_too_small_raises(impl: str, dtype: torch.dtype, wrong: int | str) -> None:
    case = rows_of(dtype)
    n_valid = int((case.labels != IGNORE).sum())
    count = n_valid - 1 if wrong == "one too few" else wrong
    with pytest.raises(ValueError, match="valid_count"):
        loss_of(head_of(case, has_bias=False), case, Options(), impl, valid_count=count)


@everywhere
def test_rows_of_weight_zero_count_as_valid(impl: str, dtype: torch.dtype) -> None:
    """valid_count is about labels: the collator that knows it knows no weights."""
    case = rows_of(dtype)
    case = case.replace(task_weights=torch.tensor([0.0, 2.0, 0.0], dtype=case.task_weights.dtype))
    features = head_of(case, has_bias=False)
    got = loss_of(features, case, Options(), impl, valid_count=int((case.labels != IGNORE).sum()))
    assert_close(got, loss_of(features, case, Options(), impl), LOSS[dtype])


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum"])
@pytest.mark.parametrize("memory_budget", ["min", None])
def test_the_weight_gradient_is_added_to_what_is_there(
    impl: str, dtype: torch.dtype, reduction: str, memory_budget: str | None
) -> None:
    case, o = rows_of(dtype, 50), Options(label_smoothing=0.1, reduction=reduction)
    features = head_of(case, has_bias=True)
    before = torch.randn(37, WIDTH, generator=torch.Generator().manual_seed(7)).to(dtype)
    results = []
    for accumulate in (True, False):
        leaves = leaves_of(features)
        leaves[1].grad = before.clone()
        there = leaves[1].grad
        options = {"memory_budget": memory_budget, "accumulate_weight_grad": accumulate}
        loss = loss_of(leaves, case, o, impl, **options)
        loss.backward()
        assert leaves[1].grad is there
        results.append((loss, leaves))
    (loss, leaves), (expected, others) = results
    assert torch.equal(loss, expected)
    assert torch.equal(leaves[0].grad, others[0].grad)
    # Twice rounded where it is added at the end.
    assert_gradients_close(leaves[1].grad, others[1].grad, dtype, roundings=2)
    assert_gradients_close(leaves[2].grad, others[2].grad, dtype)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("memory_budget", ["min", None])
def test_accumulation_under_autocast(impl: str, memory_budget: str | None) -> None:
    """The product is bfloat16's, the gradient that is added to is the parameter's float32."""
    case, results = rows_of(torch.float32, 50), []
    for accumulate in (True, False):
        leaves = leaves_of(head_of(case, has_bias=True))
        leaves[1].grad = torch.ones_like(leaves[1])
        options = {"memory_budget": memory_budget, "accumulate_weight_grad": accumulate}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(leaves, case, Options(), impl, **options)
        loss.backward()
        results.append(leaves)
    for leaf, expected in zip(*results, strict=True):
        assert leaf.grad.dtype == torch.float32
        # The plain path rounds dW to bfloat16 before it reaches the parameter.
        assert_gradients_close(leaf.grad - 1, expected.grad - 1, torch.bfloat16)


@everywhere
def test_the_first_weight_gradient_is_an_ordinary_one(impl: str, dtype: torch.dtype) -> None:
    """Nothing is there yet: any upstream gradient will do, and the micro-batches after it add to it."""
    case = rows_of(dtype)
    leaves, expected = (leaves_of(head_of(case, has_bias=False)) for _ in range(2))
    loss = loss_of(leaves, case, Options(), impl, accumulate_weight_grad=True)
    loss.backward(torch.full_like(loss, 0.5))
    loss = loss_of(expected, case, Options(), impl)
    loss.backward(torch.full_like(loss, 0.5))
    assert torch.equal(leaves[1].grad, expected[1].grad)


@everywhere
@pytest.mark.parametrize("upstream", [0.5, 2.0])
def test_an_upstream_gradient_after_accumulation_raises(
    impl: str, dtype: torch.dtype, upstream: float
) -> None:
    """dW is in weight.grad already when the backward pass comes."""
    case = rows_of(dtype)
    leaves = leaves_of(head_of(case, has_bias=False))
    leaves[1].grad = torch.zeros_like(leaves[1])
    loss = loss_of(leaves, case, Options(), impl, accumulate_weight_grad=True)
    with pytest.raises((RuntimeError, ValueError), match="accumulate_weight_grad"):
        (upstream * loss).backward()


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize(
    ("bias", "error"),
    [
        (torch.ones(36), ValueError),
        (torch.ones(1, 37), ValueError),
        (torch.ones(37, dtype=torch.bfloat16), (TypeError, ValueError)),
        (torch.ones(37, dtype=torch.float64), (TypeError, ValueError)),
    ],
    ids=["length", "dimensions", "bfloat16", "float64"],
)
def test_a_bad_bias_is_named(impl: str, bias: Tensor, error: type) -> None:
    case = rows_of(torch.float32)
    hidden, weight = head_of(case, has_bias=False)
    with pytest.raises(error, match="bias"):
        loss_of([hidden, weight, bias], case, Options(), impl)
