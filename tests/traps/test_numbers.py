"""Where other losses computed a wrong number; each test is named after the trap."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal
from tests.tolerances import FLOOR, LOSS, RELATIVE, assert_close, assert_gradients_close

fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
both_levels = pytest.mark.parametrize("level", ["logits", "linear"])
LOW_PRECISION = [torch.bfloat16, torch.float16]
IGNORE = -100
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-3},
    "softcap": {"softcap": 30.0},
    "class weights": {"class_weights": torch.linspace(0.5, 2, 40)},
}
OPTIONS["all"] = {name: value for options in OPTIONS.values() for name, value in options.items()}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(level: str, features: list[Tensor], labels: Tensor, impl: str, **options: object) -> Tensor:
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    return fn(*features, labels, impl=impl, **options)


@fast_impl
@both_levels
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
def test_nan_on_nothing_valid(level: str, impl: str, reduction: str, options: str) -> None:
    """0 / 0, and a mean over no rows; the graph must stay or a parallel run hangs."""
    shapes = [(3, 40)] if level == "logits" else [(3, 5), (40, 5)]
    features = [torch.full(shape, math.nan).requires_grad_() for shape in shapes]
    labels = torch.full((3,), IGNORE)
    loss = run(level, features, labels, impl, reduction=reduction, **OPTIONS[options])
    assert (loss == 0).all()
    loss.sum().backward()
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in features)


@fast_impl
@both_levels
@pytest.mark.parametrize("options", ["plain", "smoothing", "z-loss"])
def test_nan_on_labels_of_no_class_weight(level: str, impl: str, options: str) -> None:
    """The denominator is the sum of the labels' class weights: 0 over 0, though every label is valid."""
    shapes = [(3, 40)] if level == "logits" else [(3, 5), (40, 5)]
    features = [random(*shape).requires_grad_() for shape in shapes]
    classes = torch.ones(40)
    classes[7] = 0
    labels = torch.full((3,), 7)
    loss = run(level, features, labels, impl, **(OPTIONS[options] | {"class_weights": classes}))
    assert loss.item() == 0
    loss.backward()
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in features)


@fast_impl
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=["bfloat16", "float16"])
@pytest.mark.parametrize("options", ["plain", "softcap", "class weights"])
def test_true_class_gradient_lost_to_rounding_in_bf16(impl: str, dtype: torch.dtype, options: str) -> None:
    """p - 1 has 3e-8 of absolute rounding; at a margin of 20 the gradient, 39 times 2e-9, is all rounding."""
    logits = torch.zeros(1, 40, dtype=dtype)
    logits[0, 5] = 20.0
    logits.requires_grad_()
    # The weight keeps it above float16's smallest step.
    given = OPTIONS[options] | {"token_weights": torch.tensor([1000.0]), "reduction": "sum"}
    run("logits", [logits], torch.tensor([5]), impl, **given).backward()
    cap = OPTIONS[options].get("softcap")
    z = 20.0 if cap is None else cap * math.tanh(20 / cap)
    others = 39 * math.exp(-z)
    expected = -1000 * others / (1 + others) * (1 if cap is None else 1 - math.tanh(20 / cap) ** 2)
    expected *= OPTIONS[options].get("class_weights", torch.ones(40))[5].item()
    got = logits.grad[0, 5].item()
    assert got == pytest.approx(expected, rel=2 * RELATIVE[dtype], abs=FLOOR[dtype])


@fast_impl
@both_levels
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=["bfloat16", "float16"])
def test_loss_rounded_to_bf16(level: str, impl: str, dtype: torch.dtype) -> None:
    """Every row's loss is float32, not rounded on its way to the sum or to the caller."""
    # Products of powers of two: the linear level's logits are exact, too.
    hidden = (2.0 ** torch.randint(-2, 2, (64, 1), generator=torch.Generator().manual_seed(0))).to(dtype)
    weight = (2.0 ** torch.randint(-2, 3, (40, 1), generator=torch.Generator().manual_seed(1))).to(dtype)
    features = [hidden @ weight.t()] if level == "logits" else [hidden, weight]
    labels = torch.arange(64) % 40
    exact = F.cross_entropy((hidden @ weight.t()).double(), labels, reduction="none")
    rows = run(level, features, labels, impl, reduction="none")
    mean = run(level, features, labels, impl)
    assert rows.dtype == mean.dtype == torch.float32
    assert_close(rows, exact, LOSS[dtype])
    assert_close(mean, exact.mean(), LOSS[dtype])


class FarApart(torch.autograd.Function):
    """The same rows in memory with 2.2 GB between them, as a model's logits would be: no leaf."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, stride: int) -> Tensor:
        """Returns (R, V) of row stride `stride`."""
        storage = rows.new_empty((rows.shape[0] - 1) * stride + rows.shape[1])
        return storage.as_strided(rows.shape, (stride, 1)).copy_(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient, in whatever memory it comes."""
        return gradient.contiguous(), None


@fast_impl
@pytest.mark.parametrize("inplace", [False, True])
def test_int32_offsets_beyond_two_to_the_31_elements(impl: str, inplace: bool) -> None:
    """The third row begins at element 2.2e9, as does its gradient in place; memory not touched is free."""
    leaf, labels = (3 * random(3, 40)).bfloat16().requires_grad_(), torch.tensor([1, 2, 39])
    exact = leaf.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, labels)
    expected.backward()
    logits = FarApart.apply(leaf, 1_100_000_000)
    assert logits.stride() == (1_100_000_000, 1)
    loss = cotbal.gtw_cross_entropy(logits, labels, inplace=inplace, impl=impl)
    assert_close(loss, expected, LOSS[torch.bfloat16])
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert_gradients_close(gradient, exact.grad, torch.bfloat16)
    assert torch.equal(logits.detach(), gradient if inplace else leaf.detach())


@both_levels
@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
@pytest.mark.parametrize("label", [-1, 40, 2**31 + 3, -(2**40)])
@pytest.mark.parametrize("shift", [False, True])
def test_label_out_of_range(level: str, impl: str, label: int, shift: bool) -> None:
    """2^31 + 3 would be a valid label to a kernel that reads 32 bits of it."""
    labels = torch.tensor([[0, 3, label]])
    features = [random(1, 3, 40)] if level == "logits" else [random(1, 3, 5), random(40, 5)]
    with pytest.raises(ValueError, match="labels: expected values in"):
        run(level, features, labels, impl, shift=shift)


MASKED = {
    "one": [slice(7, 8)],
    "the first block": [slice(0, 1100)],
    "the last block": [slice(1500, 2100)],
    "between": [slice(200, 1200)],
    "all but the label": [slice(0, 1300), slice(1301, 2100)],
}


@fast_impl
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_minus_infinity_logits_and_blocks_of_them(
    impl: str, masked: str, softcap: float | None, dtype: torch.dtype
) -> None:
    """-inf - (-inf) is NaN; under a cap -inf is a class at -cap, as tanh has it, and its gradient 0."""
    logits = random(2, 2100)
    for columns in MASKED[masked]:
        logits[0, columns] = -math.inf
    logits, labels = logits.to(dtype).requires_grad_(), torch.tensor([1300, 2])
    exact = logits.detach().double().requires_grad_()
    z = exact if softcap is None else softcap * torch.tanh(exact / softcap)
    expected = F.cross_entropy(z, labels)
    expected.backward()
    loss = cotbal.gtw_cross_entropy(logits, labels, softcap=softcap, impl=impl)
    loss.backward()
    assert_close(loss, expected, 2 * LOSS[dtype])
    assert_gradients_close(logits.grad, exact.grad, dtype, roundings=2)
    assert (logits.grad[logits == -math.inf] == 0).all()


@fast_impl
@pytest.mark.parametrize("n_cols", [1, 33, 1000, 1025, 4100])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}], ids=["cap alone", "all"])
def test_softcap_turned_padding_finite(impl: str, n_cols: int, options: dict[str, float]) -> None:
    """All logits are far below -cap: a column beyond the vocabulary at tanh(-inf) would weigh as much."""
    logits = torch.full((2, n_cols), -1e4)
    loss = cotbal.gtw_cross_entropy(
        logits, torch.tensor([0, n_cols - 1]), softcap=5.0, reduction="none", impl=impl, **options
    )
    expected = math.log(n_cols) + options.get("z_loss", 0) * (math.log(n_cols) - 5) ** 2
    assert loss.tolist() == pytest.approx([expected, expected], rel=1e-5, abs=1e-6)


@fast_impl
@pytest.mark.parametrize("memory_budget", ["min", None])
def test_reduction_none_with_wrong_weight_gradients(impl: str, memory_budget: str | None) -> None:
    """dW = sum_r u_r g_r x_r^T has each row's own upstream gradient inside the sum."""
    hidden, weight, bias = (random(*shape, seed=n) for n, shape in enumerate([(130, 6), (40, 6), (40,)]))
    labels, upstream = torch.arange(130) % 40, random(130, seed=9)
    labels[::7] = IGNORE
    leaves, expected = ([x.clone().requires_grad_() for x in (hidden, weight, bias)] for _ in range(2))
    loss = cotbal.linear_gtw_cross_entropy(
        *leaves[:2], labels, bias=leaves[2], reduction="none", memory_budget=memory_budget, impl=impl
    )
    loss.backward(upstream)
    rows = F.cross_entropy(F.linear(*expected), labels, reduction="none", ignore_index=IGNORE)
    rows.backward(upstream)
    assert_close(loss, rows, LOSS[torch.float32])
    for leaf, other in zip(leaves, expected, strict=True):
        assert_gradients_close(leaf.grad, other.grad, torch.float32, roundings=2)


@fast_impl
def test_dw_rounded_once_per_chunk(impl: str) -> None:
    """8 chunks summed in bfloat16 differ from one chunk by units; in float32 by a rounding at most."""
    hidden, weight = random(512, 6).bfloat16(), random(40, 6, seed=1).bfloat16()
    labels = torch.randint(40, (512,), generator=torch.Generator().manual_seed(2))
    gradients = []
    for memory_budget in ("min", 2**30):
        leaf = weight.clone().requires_grad_()
        loss = cotbal.linear_gtw_cross_entropy(hidden, leaf, labels, memory_budget=memory_budget, impl=impl)
        loss.backward()
        gradients.append(leaf.grad.double())
    chunked, whole = gradients
    # One unit in the last place of each entry: the two may fall on either side of a rounding.
    assert ((chunked - whole).abs() <= 2.0**-7 * whole.abs()).all()
    assert ((chunked - whole) != 0).double().mean() < 0.2
