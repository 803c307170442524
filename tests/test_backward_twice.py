"""A graph run backward more than once: every gradient is right, or the error is clear."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import cotbal
from cotbal import ops
from csrc_triton import torch_path
from tests.csrc_triton.tally import Tally
from tests.tolerances import LOSS, assert_close, assert_gradients_close

fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
both_levels = pytest.mark.parametrize("level", ["logits", "inplace", "linear"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
LABELS = torch.tensor([3, -100, 39, 0, 12, 3])
IDS = torch.tensor([0, 0, 1, 1, 2, 2])

Build = Callable[[], tuple[Tensor, list[Tensor]]]


def problem(level: str, impl: str, dtype: torch.dtype, **options: object) -> Build:
    """A function that returns a fresh loss and its leaves: features, and the task weights at the end."""
    generator = torch.Generator().manual_seed(1)
    features = [2 * torch.randn(6, 40, generator=generator)]
    if level == "linear":
        features = [torch.randn(6, 5, generator=generator), torch.randn(40, 5, generator=generator)]

    def build() -> tuple[Tensor, list[Tensor]]:
        leaves = [feature.to(dtype).requires_grad_() for feature in features]
        leaves.append(torch.tensor([0.5, 2.0, 1.25]).requires_grad_())
        arguments = (LABELS, IDS, leaves[-1])
        if level == "linear":
            loss = cotbal.linear_gtw_cross_entropy(*leaves[:2], *arguments, impl=impl, **options)
        else:
            logits = leaves[0] * 1
            inplace = level == "inplace"
            loss = cotbal.gtw_cross_entropy(logits, *arguments, impl=impl, inplace=inplace, **options)
        return loss, leaves

    return build


def expected_gradients(build: Build, upstream: Tensor) -> list[Tensor]:
    """Of a graph that is run backward once, by this upstream gradient."""
    loss, leaves = build()
    return list(torch.autograd.grad(loss, leaves, upstream.expand_as(loss)))


def assert_same(got: tuple[Tensor, ...] | list[Tensor], expected: list[Tensor], roundings: int = 2) -> None:
    for gradient, other in zip(got, expected, strict=True):
        assert_gradients_close(gradient, other, gradient.dtype, roundings=roundings)


@fast_impl
@both_levels
@every_dtype
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
def test_every_backward_of_a_retained_graph_is_right(
    level: str, impl: str, dtype: torch.dtype, reduction: str
) -> None:
    """A factor first, so that scaling in place would spoil what comes after; what was handed out stays."""
    build = problem(level, impl, dtype, reduction=reduction, label_smoothing=0.1)
    loss, leaves = build()
    rows = torch.linspace(-1, 2, 6) if reduction == "none" else torch.ones(())
    handed_out = []
    for factor in (0.25, 1.0, 3.0, 0.0, 1.0):
        upstream = factor * rows
        got = torch.autograd.grad(loss, leaves, upstream, retain_graph=True)
        expected = expected_gradients(build, upstream)
        assert_same(got, expected)
        handed_out.append((got, [gradient.clone() for gradient in got]))
    for got, copies in handed_out:
        assert all(torch.equal(gradient, copy) for gradient, copy in zip(got, copies, strict=True))


@fast_impl
@both_levels
@every_dtype
def test_gradients_of_leaves_add_up(level: str, impl: str, dtype: torch.dtype) -> None:
    """Autograd may take a gradient for `leaf.grad` and add to it in place: it must not be the loss's own."""
    build = problem(level, impl, dtype)
    loss, leaves = build()
    for _ in range(3):
        loss.backward(retain_graph=True)
    loss.backward()
    assert_same([leaf.grad for leaf in leaves], [4 * g for g in expected_gradients(build, torch.ones(()))], 4)


@fast_impl
@both_levels
def test_without_retaining_torch_says_so(level: str, impl: str) -> None:
    loss, _ = problem(level, impl, torch.float32)()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"backward .*a second time"):
        loss.backward()


@fast_impl
@both_levels
def test_one_leaf_at_a_time(level: str, impl: str) -> None:
    build = problem(level, impl, torch.float32)
    loss, leaves = build()
    expected = expected_gradients(build, torch.ones(()))
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert_same(torch.autograd.grad(loss, leaf, retain_graph=True), [gradient])


@fast_impl
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_two_losses_of_one_graph(level: str, impl: str) -> None:
    """Each has its own gradient, whatever the order of their backward passes."""
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(6, 5, generator=generator), torch.randn(40, 5, generator=generator)]

    def losses(leaves: list[Tensor], impl: str) -> tuple[Tensor, Tensor]:
        pair = []
        logits = leaves[0] @ leaves[1].t()
        for weights in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 0.0, 1.0])):
            if level == "linear":
                pair.append(cotbal.linear_gtw_cross_entropy(*leaves, LABELS, IDS, weights, impl=impl))
            else:
                pair.append(cotbal.gtw_cross_entropy(logits, LABELS, IDS, weights, impl=impl))
        return pair[0], pair[1]

    leaves, expected = ([feature.clone().requires_grad_() for feature in features] for _ in range(2))
    first, second = losses(leaves, impl)
    second.backward(retain_graph=True)
    (0.5 * first).backward()
    first, second = losses(expected, "reference")
    (0.5 * first + second).backward()
    assert_same([leaf.grad for leaf in leaves], [leaf.grad for leaf in expected], roundings=4)


@fast_impl
@both_levels
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_inside_a_checkpoint(level: str, impl: str, use_reentrant: bool) -> None:
    """Activation checkpointing runs the forward pass twice for one backward pass."""
    build = problem(level, impl, torch.float32)
    leaves = build()[1]

    def loss_of(*inputs: Tensor) -> Tensor:
        options = {"impl": impl, "label_smoothing": 0.1}
        if level == "linear":
            return cotbal.linear_gtw_cross_entropy(*inputs[:2], LABELS, IDS, inputs[2], **options)
        inplace = level == "inplace"
        return cotbal.gtw_cross_entropy(inputs[0] * 1, LABELS, IDS, inputs[1], inplace=inplace, **options)

    loss = checkpoint(loss_of, *leaves, use_reentrant=use_reentrant)
    (0.5 * loss).backward()
    expected = torch.autograd.grad(0.5 * loss_of(*leaves), leaves)
    assert_same([leaf.grad for leaf in leaves], list(expected))


@fast_impl
@both_levels
def test_a_second_derivative_is_refused(level: str, impl: str) -> None:
    loss, leaves = problem(level, impl, torch.float32)()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaves, create_graph=True)


@fast_impl
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_an_ignored_row_has_no_gradient_whatever_comes_from_above(level: str, impl: str) -> None:
    """A mean over each sample's labels is 0 / 0 where a sample has none."""
    hidden = torch.randn(3, 40, requires_grad=True)
    arguments = [hidden] if level == "logits" else [hidden, torch.randn(50, 40)]
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    loss = fn(*arguments, torch.tensor([1, -100, 2]), reduction="none", impl=impl)
    loss.backward(torch.tensor([1.0, math.nan, 1.0]))
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[1].any()
    assert hidden.grad[[0, 2]].any(dim=1).all()


WEIGHT_0 = {
    "token": {"token_weights": torch.tensor([1.0, 0.0, 1.0])},
    "task": {"task_ids": torch.tensor([0, 1, 0]), "task_weights": torch.tensor([1.0, 0.0])},
}


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("level", ["logits", "inplace", "linear"])
@pytest.mark.parametrize("of", WEIGHT_0)
def test_a_row_of_weight_0_has_no_gradient_whatever_comes_from_above(level: str, impl: str, of: str) -> None:
    """A mean over each sample's weights is 0 / 0 where its task is switched off."""
    hidden = torch.randn(3, 40, requires_grad=True)
    options = {"reduction": "none", "impl": impl, **WEIGHT_0[of]}
    if level == "linear":
        loss = cotbal.linear_gtw_cross_entropy(hidden, torch.randn(50, 40), torch.arange(3), **options)
    else:
        inplace = level == "inplace" and impl != "reference"
        loss = cotbal.gtw_cross_entropy(hidden * 1, torch.arange(3), inplace=inplace, **options)
    loss.backward(torch.tensor([1.0, math.nan, 1.0]))
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[1].any()
    assert hidden.grad[[0, 2]].any(dim=1).all()


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("level", ["logits", "inplace", "linear"])
@pytest.mark.parametrize("n_cols", [40, 33])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum"])
@pytest.mark.parametrize("above", [math.nan, -math.inf])
def test_a_gradient_of_0_stays_0_whatever_comes_from_above(
    level: str, impl: str, n_cols: int, reduction: str, above: float
) -> None:
    """Of padding, of a task of weight 0 that is read, of a class of -inf, of a task that is absent."""
    generator, gradients = torch.Generator().manual_seed(1), []
    features = [torch.randn(5, n_cols, generator=generator)]
    features[0][:, 7] = -math.inf
    if level == "linear":
        features = [torch.randn(rows, 5, generator=generator) for rows in (5, n_cols)]
        features.append(torch.zeros(n_cols).index_fill(0, torch.tensor(7), -math.inf))
    features.append(torch.tensor([1.0, 0.0, 2.0, 0.5]))
    arguments = (torch.tensor([3, -100, 12, 0, 5]), torch.tensor([0, 0, 1, 0, 3]))
    options = {"reduction": reduction, "impl": impl}
    for upstream in (1.0, above):
        leaves = [feature.clone().requires_grad_() for feature in features]
        if level == "linear":
            hidden, head, bias, weights = leaves
            loss = cotbal.linear_gtw_cross_entropy(hidden, head, *arguments, weights, bias=bias, **options)
        else:
            inplace = level == "inplace" and impl != "reference"
            loss = cotbal.gtw_cross_entropy(leaves[0] * 1, *arguments, leaves[1], inplace=inplace, **options)
        gradients.append(torch.autograd.grad(loss, leaves, torch.tensor(upstream)))
    for ordinary, got in zip(*gradients, strict=True):
        assert ordinary.isfinite().all()
        assert ordinary.any()
        assert torch.equal(got == 0, ordinary == 0)
        assert not got[got != 0].isfinite().any()
    assert all((gradients[1][0][row] == 0).all() for row in (1, 2))
    assert gradients[1][-1][2] == 0


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("n_cols", [40, 33])
@pytest.mark.parametrize("options", [{}, {"class_weights": True}, {"z_loss": 1e-3}], ids=str)
@pytest.mark.parametrize("above", [math.nan, -math.inf])
def test_a_row_that_is_given_no_finite_gradient_spoils_no_class_without_one(
    impl: str, n_cols: int, options: dict[str, Any], above: float
) -> None:
    """Of probability 0, that is: the products sum over the rows, and one NaN in a column is a row of dW."""
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(rows, 5, generator=generator) for rows in (5, n_cols)]
    features.append(torch.zeros(n_cols).index_fill(0, torch.tensor([7, 8]), -1e4))
    labels, ids = torch.tensor([3, -100, 12, 0, 3]), torch.tensor([0, 0, 1, 0, 2])
    weights, upstream = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([above, 1.0, 0.5, -2.0, above])
    options = options | {"reduction": "none"}
    if "class_weights" in options:
        options["class_weights"] = torch.rand(n_cols, generator=generator)
    gradients = []
    for each in (impl, "reference"):
        leaves = [feature.clone().requires_grad_() for feature in features]
        hidden, head, bias = leaves
        loss = cotbal.linear_gtw_cross_entropy(
            hidden, head, labels, ids, weights, bias=bias, impl=each, **options
        )
        gradients.append(torch.autograd.grad(loss, leaves, upstream))
    for got, expected in zip(*gradients, strict=True):
        assert torch.equal(got.isfinite(), expected.isfinite())
        assert_gradients_close(got.nan_to_num(), expected.nan_to_num(), torch.float32)
    assert not gradients[0][1][[7, 8]].any()


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_a_task_weight_takes_no_nan_of_a_row_without_a_loss(level: str, impl: str) -> None:
    """Its gradient is the sum over the rows of what comes from above times their loss."""
    features = [torch.randn(4, 5, requires_grad=True), torch.randn(40, 5)][: 1 + (level == "linear")]
    weights = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    loss = fn(
        *features,
        torch.tensor([1, -100, 2, 3]),
        torch.tensor([0, 0, 2, 1]),
        weights,
        token_weights=torch.tensor([1.0, 1.0, 0.0, 1.0]),
        reduction="none",
        impl=impl,
    )
    gradients = torch.autograd.grad(loss, [features[0], weights], torch.tensor([1.0, *[math.nan] * 3]))
    assert [row.any().item() for row in gradients[0]] == [True, False, False, False]
    assert gradients[0].isfinite().all()
    assert gradients[1].isfinite().tolist() == [True, False, True]
    assert gradients[1][2] == 0


def test_rows_are_scaled_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 16 bits is float32 while it is scaled: all rows at once would be twice the gradient."""
    monkeypatch.setattr(torch_path, "_BLOCK_ELEMENTS", 200)
    gradient, factor = torch.randn(17, 40).bfloat16(), torch.randn(17)
    expected = (gradient * factor[:, None]).bfloat16()
    with Tally(large=201) as tally:
        ops.scale_op._init_fn(gradient, factor, None, -100, "torch")
    assert torch.equal(gradient, expected)
    assert "aten.mul_.Tensor" in tally.names
    assert not tally.passes


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_without_a_valid_row_an_infinite_gradient_from_above_is_none(impl: str) -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    loss = cotbal.gtw_cross_entropy(logits, torch.tensor([-100, -100]), impl=impl)
    loss.backward(torch.tensor(math.inf))
    assert torch.equal(logits.grad, torch.zeros(2, 5))


@pytest.mark.parametrize("level", ["logits", "linear"])
def test_the_reference_has_a_second_derivative(level: str) -> None:
    """float64, against finite differences of the first."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(6, 40)] if level == "logits" else [(6, 5), (40, 5)]
    features = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    ]
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    loss = fn(*features, LABELS, IDS, torch.tensor([0.5, 2.0, 1.25]), impl="reference")
    direction = torch.randn(*shapes[0], generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss, features[0], create_graph=True)
    (curvature,) = torch.autograd.grad((gradient * direction).sum(), features[0])

    def slope(step: float) -> Tensor:
        moved = (features[0] + step * direction).detach().requires_grad_()
        loss = fn(moved, *features[1:], LABELS, IDS, torch.tensor([0.5, 2.0, 1.25]), impl="reference")
        return torch.autograd.grad(loss, moved)[0]

    # A difference of step 1e-4 is wrong by its square.
    assert_close(curvature, (slope(1e-4) - slope(-1e-4)) / 2e-4, 1e-6)


@fast_impl
@both_levels
@every_dtype
def test_an_upstream_gradient_of_one_costs_no_bit(level: str, impl: str, dtype: torch.dtype) -> None:
    build = problem(level, impl, dtype)
    first, second = (expected_gradients(build, torch.ones(())) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    quarter = expected_gradients(build, torch.tensor(0.25))
    # A power of two rounds nothing.
    for gradient, other in zip(quarter[:-1], first[:-1], strict=True):
        assert torch.equal(gradient, (other * 0.25).to(gradient.dtype))
    assert_close(quarter[-1], first[-1] * 0.25, LOSS[torch.float32])


@fast_impl
@both_levels
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
def test_the_loss_may_be_changed_in_place(level: str, impl: str, reduction: str) -> None:
    """As `loss /= accumulation_steps` does, and a mask on the losses of rows."""
    build = problem(level, impl, torch.float32, reduction=reduction)
    expected = expected_gradients(build, torch.tensor(0.25))
    loss, leaves = build()
    loss /= 4
    assert_same(torch.autograd.grad(loss.sum(), leaves), expected)


@fast_impl
def test_the_sums_per_task_may_be_changed_in_place(impl: str) -> None:
    logits = torch.randn(6, 40, requires_grad=True)
    weights = torch.tensor([0.5, 2.0, 1.25], requires_grad=True)
    gradients = []
    for factor in (1, 3):
        loss, stats = cotbal.gtw_cross_entropy(logits, LABELS, IDS, weights, return_stats=True, impl=impl)
        stats.loss_sum.mul_(factor)
        gradients.append(torch.autograd.grad(loss, [logits, weights]))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@both_levels
def test_many_upstream_gradients_at_once_are_refused(level: str) -> None:
    loss, leaves = problem(level, "torch", torch.float32)()
    with pytest.raises(NotImplementedError, match=r"is_grads_batched=True, .* take the gradients one"):
        torch.autograd.grad(loss, leaves[:1], torch.tensor([1.0, 2.0]), is_grads_batched=True)
