"""inplace=True: the gradient takes the logits' place, and nothing else may notice in silence."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import cotbal
from tests.tolerances import LOSS, assert_close, assert_gradients_close

fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
LABELS = torch.tensor([[3, -100, 39, 0], [12, 3, 7, 39]])
TASKS = torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1]]), torch.tensor([0.5, 2.0, 0.0])
OPTIONS = {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 20.0}


def leaf_of(dtype: torch.dtype = torch.float32) -> Tensor:
    values = 2 * torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(2))
    return values.to(dtype).requires_grad_()


def gradient_of(leaf: Tensor, impl: str, **options: object) -> tuple[Tensor, Tensor]:
    """Loss and gradient in `leaf`, through logits that are no leaf."""
    loss = cotbal.gtw_cross_entropy(leaf * 1, LABELS, *TASKS, impl=impl, **options)
    (gradient,) = torch.autograd.grad(loss, leaf, torch.full_like(loss, 0.25))
    return loss, gradient


@fast_impl
@every_dtype
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@pytest.mark.parametrize("shift", [False, True])
def test_the_gradient_is_the_ordinary_one(impl: str, dtype: torch.dtype, reduction: str, shift: bool) -> None:
    options = {"reduction": reduction, "shift": shift, **OPTIONS}
    loss, gradient = gradient_of(leaf_of(dtype), impl, inplace=True, **options)
    expected_loss, expected = gradient_of(leaf_of(dtype), impl, **options)
    assert_close(loss, expected_loss, LOSS[dtype])
    assert_gradients_close(gradient, expected, dtype)
    exact = gradient_of(leaf_of(dtype).detach().double().requires_grad_(), "reference", **options)[1]
    assert_gradients_close(gradient, exact, dtype, roundings=2)


@fast_impl
@every_dtype
def test_the_logits_hold_the_gradient(impl: str, dtype: torch.dtype) -> None:
    """That is what saves the memory: rows that do not count are zero there, too."""
    leaf = leaf_of(dtype)
    logits = leaf * 1
    version = logits._version
    loss = cotbal.gtw_cross_entropy(logits, LABELS, *TASKS, impl=impl, inplace=True)
    assert logits._version > version
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(logits.detach(), gradient)
    assert (logits[0, 1] == 0).all()
    assert (logits[1, 0] == 0).all()


@fast_impl
@pytest.mark.parametrize("with_loss", [False, True])
def test_what_saved_the_logits_before_raises(impl: str, with_loss: bool) -> None:
    """Whether the loss's own backward pass has run before or not."""
    logits = leaf_of() * 1
    penalty = (logits**2).sum()
    loss = cotbal.gtw_cross_entropy(logits, LABELS, *TASKS, impl=impl, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (penalty + loss if with_loss else penalty).backward()


def changed_by(how: str, logits: Tensor, impl: str) -> Tensor:
    """A loss in place, after which something else is written over its gradient."""

    def loss_of(logits: Tensor, rows: slice = slice(None)) -> Tensor:
        arguments = LABELS[rows], TASKS[0][rows], TASKS[1]
        return cotbal.gtw_cross_entropy(logits[rows], *arguments, impl=impl, inplace=True)

    if how == "checkpoint":
        return checkpoint(
            lambda one: one * loss_of(logits), torch.ones((), requires_grad=True), use_reentrant=False
        )
    if how == "slices":
        return loss_of(logits, slice(0, 1)) + loss_of(logits, slice(1, 2))
    loss = loss_of(logits)
    if how == "twice":
        return loss + loss_of(logits)
    with torch.no_grad():
        logits.zero_()
    return loss


@fast_impl
@pytest.mark.parametrize("how", ["checkpoint", "slices", "twice", "zeroed"])
def test_logits_that_are_changed_before_the_backward_pass_raise(impl: str, how: str) -> None:
    """Their values would be taken for the gradient; torch has one version for all slices of a tensor."""
    loss = changed_by(how, leaf_of() * 1, impl)
    with pytest.raises(RuntimeError, match=r"inplace=True: .* to be left alone .*, got version"):
        loss.backward()


@fast_impl
def test_slices_one_after_the_other(impl: str) -> None:
    """Each runs backward before the next is written over."""
    leaf, expected = leaf_of(), leaf_of()
    logits = leaf * 1
    for first in (0, 1):
        rows = slice(first, first + 1)
        arguments = LABELS[rows], TASKS[0][rows], TASKS[1]
        cotbal.gtw_cross_entropy(logits[rows], *arguments, impl=impl, inplace=True).backward(
            retain_graph=True
        )
        cotbal.gtw_cross_entropy(expected[rows], *arguments, impl=impl).backward()
    assert_gradients_close(leaf.grad, expected.grad, torch.float32)


@fast_impl
def test_by_default_what_saved_the_logits_works(impl: str) -> None:
    leaf = leaf_of()
    logits = leaf * 1
    penalty = (logits**2).sum()
    loss = cotbal.gtw_cross_entropy(logits, LABELS, *TASKS, impl=impl)
    after = (logits**2).sum()
    assert torch.equal(after, penalty)
    (got,) = torch.autograd.grad(loss + penalty, leaf)
    expected = gradient_of(leaf_of(), impl)[1] * 4 + 2 * leaf.detach()
    assert_gradients_close(got, expected, torch.float32)


@fast_impl
@pytest.mark.parametrize("why", ["no_grad", "inference_mode", "detached"])
def test_without_a_gradient_the_logits_are_left_alone(impl: str, why: str) -> None:
    logits = leaf_of().detach().requires_grad_(why != "detached") * 1
    before, version = logits.detach().clone(), logits._version
    mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(why, torch.enable_grad)
    with mode():
        loss, stats = cotbal.gtw_cross_entropy(
            logits, LABELS, *TASKS, impl=impl, inplace=True, return_stats=True
        )
    assert torch.equal(logits.detach(), before)
    assert logits._version == version
    assert loss.isfinite()
    assert stats.token_count.tolist() == [2, 4, 0]


@fast_impl
def test_a_leaf_raises(impl: str) -> None:
    """A parameter would hold its own gradient from then on."""
    parameter = leaf_of()
    # A parameter in a flat buffer of all of them.
    flat = parameter.detach().clone().flatten()[: parameter.numel()].view(2, 4, 40).requires_grad_()
    for leaf in (parameter, parameter.view(2, 4, 40), flat):
        with pytest.raises(ValueError, match=r"inplace.*leaf"):
            cotbal.gtw_cross_entropy(leaf, LABELS, *TASKS, impl=impl, inplace=True)


@fast_impl
@pytest.mark.parametrize("layout", ["columns", "strided", "slice", "expanded", "one row"])
def test_logits_that_are_not_contiguous(impl: str, layout: str) -> None:
    """Rows that cannot be written one by one are copied first; what lies between rows is not touched."""
    leaf = leaf_of()
    base = torch.zeros(1)
    if layout == "columns":
        logits = (leaf * 1).transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "one row":
        logits = (leaf[:1, :1] * 1).expand(2, 4, 40)
    elif layout == "expanded":
        logits = (leaf[:, :1] * 1).expand(2, 4, 40)
    else:
        place = (slice(None), slice(1, 5), slice(3, 43)) if layout == "slice" else (..., slice(0, 80, 2))
        base = torch.full((2, 7, 50) if layout == "slice" else (2, 4, 80), 7.0)
        base[place] = leaf
        logits = base[place]
    expected_logits = logits.detach().clone().requires_grad_()
    expected = cotbal.gtw_cross_entropy(expected_logits, LABELS, *TASKS, impl="reference")
    loss = cotbal.gtw_cross_entropy(logits, LABELS, *TASKS, impl=impl, inplace=True)
    (gradient,) = torch.autograd.grad(loss, leaf)
    (expected_gradient,) = torch.autograd.grad(expected, expected_logits)
    if layout == "expanded":
        summed = torch.zeros_like(gradient)
        summed[:, :1] = expected_gradient.sum(1, keepdim=True)
        expected_gradient = summed
    if layout == "one row":
        summed = torch.zeros_like(gradient)
        summed[0, 0] = expected_gradient.sum((0, 1))
        expected_gradient = summed
    assert_close(loss, expected, LOSS[torch.float32])
    assert_gradients_close(gradient, expected_gradient, torch.float32)
    if layout in ("slice", "strided"):
        untouched = torch.ones_like(base, dtype=torch.bool)
        untouched[place] = False
        assert (base.detach()[untouched] == 7).all()


@fast_impl
def test_nothing_valid(impl: str) -> None:
    leaf = leaf_of()
    logits = leaf * 1
    loss = cotbal.gtw_cross_entropy(logits, torch.full_like(LABELS, -100), *TASKS, impl=impl, inplace=True)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@fast_impl
def test_the_weights_still_get_their_gradient(impl: str) -> None:
    """Their gradient needs the losses, not the logits that are gone."""
    results = []
    for inplace in (True, False):
        weights = TASKS[1].clone().requires_grad_()
        loss = cotbal.gtw_cross_entropy(leaf_of() * 1, LABELS, TASKS[0], weights, impl=impl, inplace=inplace)
        results.append(torch.autograd.grad(loss, weights)[0])
    assert_close(results[0], results[1], LOSS[torch.float32])


@fast_impl
def test_only_the_weights_want_a_gradient(impl: str) -> None:
    logits, weights = leaf_of().detach(), TASKS[1].clone().requires_grad_()
    before = logits.clone()
    cotbal.gtw_cross_entropy(logits, LABELS, TASKS[0], weights, impl=impl, inplace=True).backward()
    assert torch.equal(logits, before)
    assert weights.grad[2] != 0


def test_under_compile_it_raises() -> None:
    """A traced graph could move a later reader of the logits before the loss or after it."""

    def step(leaf: Tensor) -> Tensor:
        return cotbal.gtw_cross_entropy(leaf * 1, LABELS, *TASKS, inplace=True)

    with pytest.raises(Exception, match="inplace"):
        torch.compile(step, backend="eager", fullgraph=True)(leaf_of())
