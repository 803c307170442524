"""The denominator, extremes, second derivatives and offsets of the losses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import cotbal
from tests.tolerances import LOSS, RELATIVE, assert_close

IMPLS = ("reference", "torch", "triton")
every_impl = pytest.mark.parametrize("impl", IMPLS)
fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
LOW_PRECISION = (torch.bfloat16, torch.float16, torch.float32)


def rows(n_rows: int = 6, n_cols: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_cols, generator=generator), torch.randint(
        n_cols, (n_rows,), generator=generator
    )


@every_impl
def test_a_token_of_loss_zero_stays_in_the_denominator(impl: str) -> None:
    """Validity is the label's, never `loss != 0`."""
    logits = torch.zeros(2, 10)
    logits[0, 3] = 500.0
    loss = cotbal.gtw_cross_entropy(logits, torch.tensor([3, 0]), impl=impl)
    assert loss.item() == pytest.approx(math.log(10) / 2, rel=1e-6)


@every_impl
def test_the_denominator_is_weighted(impl: str) -> None:
    """The published example of a wrong denominator gives 1.2 here instead of 6/7."""
    logits = torch.zeros(3, 2)
    logits[0, 0] = logits[1, 0] = 500.0
    weights = torch.tensor([1.0, 2.0])
    loss = cotbal.gtw_cross_entropy(
        logits, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), weights, impl=impl
    )
    assert loss.item() == pytest.approx(2 * math.log(2) / 4, rel=1e-6)


@every_impl
@pytest.mark.parametrize(
    "options", [{"reduction": "sum"}, {"denominator": torch.tensor(7.0)}], ids=["sum", "given"]
)
def test_the_weights_gradient_without_a_mean_is_the_tasks_sum(impl: str, options: dict[str, Any]) -> None:
    """A given denominator is a constant, and the upstream gradient counts."""
    logits, labels = rows()
    ids, weights = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([0.5, 2.0], requires_grad=True)
    (3 * cotbal.gtw_cross_entropy(logits, labels, ids, weights, impl=impl, **options)).backward()
    sums = torch.zeros(2).index_add_(0, ids, F.cross_entropy(logits, labels, reduction="none"))
    assert_close(weights.grad, 3 * sums / options.get("denominator", 1), LOSS[torch.float32])


@every_impl
def test_the_weights_gradient_of_a_mean_counts_the_class_weights(impl: str) -> None:
    logits, labels = rows()
    ids, class_weights = torch.tensor([0, 1, 0, 1, 1, 0]), torch.linspace(0.5, 2, logits.shape[1])
    found, expected = (torch.tensor([0.5, 2.0], requires_grad=True) for _ in range(2))
    cotbal.gtw_cross_entropy(logits, labels, ids, found, class_weights=class_weights, impl=impl).backward()
    losses = F.cross_entropy(logits, labels, class_weights, reduction="none").detach()
    of_rows = expected[ids]
    ((of_rows * losses).sum() / (of_rows * class_weights[labels]).sum()).backward()
    assert_close(found.grad, expected.grad, LOSS[torch.float32])


@fast_impl
@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_a_confident_token_keeps_its_gradient_and_loss(impl: str, dtype: torch.dtype) -> None:
    """p - 1 is 0 in float32 at a margin of 20; the sum over the others is not."""
    logits = torch.zeros(1, 64, dtype=dtype)
    logits[0, 5] = 20.0
    logits.requires_grad_()
    loss = cotbal.gtw_cross_entropy(logits, torch.tensor([5]), impl=impl)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    F.cross_entropy(exact, torch.tensor([5])).backward()
    others = 63 * math.exp(-20)
    assert loss.item() == pytest.approx(math.log1p(others), rel=1e-5)
    # float16's smallest step is 6e-8: the entries of 2e-9 vanish there, the label's own of 1.3e-7 does not.
    relative = 0.5 if dtype == torch.float16 else 2 * RELATIVE[dtype]
    assert logits.grad[0, 5].item() == pytest.approx(exact.grad[0, 5].item(), rel=relative)


@fast_impl
def test_a_confident_token_keeps_its_loss_beside_a_z_loss(impl: str) -> None:
    """Its logit is 0, so the log-sum-exp is as small as the loss."""
    logits = torch.full((1, 50), -20.0)
    logits[0, 7] = 0.0
    loss = cotbal.gtw_cross_entropy(logits, torch.tensor([7]), z_loss=0.1, impl=impl)
    lse = math.log1p(49 * math.exp(-20.0))
    assert loss.item() == pytest.approx(lse + 0.1 * lse**2, rel=LOSS[torch.float32])


@fast_impl
@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("size", [1e4, 3e4])
def test_huge_logits(impl: str, dtype: torch.dtype, size: float) -> None:
    logits, labels = rows()
    logits = (logits.sign() * size).to(dtype)
    cotbal.check_gradients(cotbal.gtw_cross_entropy, logits, labels=labels, impl=impl)


@fast_impl
@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_minus_infinity_off_the_label(impl: str, dtype: torch.dtype) -> None:
    """Whole blocks of it, at the start, in the middle and at the end."""
    logits, labels = rows(n_cols=5000)
    labels[:] = 4200
    for row, masked in enumerate([slice(0, 4100), slice(4300, 5000), slice(1000, 4200), slice(0, 4200)]):
        logits[row, masked] = -math.inf
    logits[4, 0:4200] = logits[4, 4201:] = -math.inf
    logits = logits.to(dtype).requires_grad_()
    loss = cotbal.gtw_cross_entropy(logits, labels, impl=impl)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, labels)
    expected.backward()
    assert_close(loss, expected, LOSS[dtype])
    assert_close(logits.grad, exact.grad, RELATIVE[dtype])


@fast_impl
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 3.0}], ids=str)
@pytest.mark.parametrize("n_cols", [8960, 9001])
def test_a_long_row_ends_where_the_next_begins(impl: str, options: dict[str, Any], n_cols: int) -> None:
    """Its last columns are less than a step of the launch in use, and more than its block."""
    logits, labels = rows(n_rows=3, n_cols=n_cols)
    cotbal.check_gradients(cotbal.gtw_cross_entropy, logits, labels=labels, impl=impl, **options)


@every_impl
@pytest.mark.parametrize(
    "entries",
    [
        {3: math.nan},
        {7: math.nan},
        {3: math.inf},
        {7: math.inf},
        {7: -math.inf},
        dict.fromkeys(range(50), -math.inf),
    ],
    ids=["nan", "nan at the label", "inf", "inf at the label", "-inf at the label", "-inf everywhere"],
)
def test_what_is_not_finite_is_as_in_torch(impl: str, entries: dict[int, float]) -> None:
    logits, _ = rows(n_rows=2)
    for column, value in entries.items():
        logits[0, column] = value
    labels = torch.tensor([7, 1])
    logits.requires_grad_()
    got = cotbal.gtw_cross_entropy(logits, labels, reduction="none", impl=impl)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert_close(got, expected, LOSS[torch.float32])
    assert not got[0].isfinite()
    if impl != "reference":
        (gradient,) = torch.autograd.grad(got[0], logits)
        (expected_gradient,) = torch.autograd.grad(expected[0], logits)
        assert torch.equal(gradient[0].isnan(), expected_gradient[0].isnan())


@every_impl
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize(
    "bad",
    [{3: math.nan}, {7: math.inf}, dict.fromkeys(range(50), -math.inf)],
    ids=["nan", "inf at the label", "-inf everywhere"],
)
def test_a_label_of_class_weight_0_hides_no_nan(impl: str, z_loss: float, bad: dict[int, float]) -> None:
    """Its own term is 0 where a logit of -inf makes it infinite, but NaN with the row, as in torch."""
    logits, labels = rows(n_rows=3)[0], torch.full((3,), 7)
    for column, value in bad.items():
        logits[0, column] = value
    logits[1, 7] = -math.inf
    weights = torch.ones(50).index_fill_(0, torch.tensor([7]), 0.0)
    options = {"class_weights": weights, "z_loss": z_loss, "reduction": "none", "impl": impl}
    got = cotbal.gtw_cross_entropy(logits, labels, **options)
    assert F.cross_entropy(logits, labels, weight=weights, reduction="none")[0].isnan()
    assert got[0].isnan()
    assert_close(got[1:], z_loss * logits[1:].logsumexp(1) ** 2, LOSS[torch.float32])


@every_impl
@pytest.mark.parametrize(
    ("value", "softcap", "hits"),
    [(math.inf, None, 1), (math.nan, None, 1), (math.inf, 3.0, 2), (-math.inf, None, 2)],
)
def test_a_row_of_nan_or_inf_is_no_hit(impl: str, value: float, softcap: float | None, hits: int) -> None:
    """Though the label is its largest entry to argmax; a cap makes +inf a number like others."""
    logits = torch.zeros(2, 50)
    if value == -math.inf:
        logits[1] = value
    logits[1, 0] = value
    labels, ids = torch.tensor([0, 0]), torch.tensor([0, 0])
    _, stats = cotbal.gtw_cross_entropy(
        logits, labels, ids, torch.ones(1), softcap=softcap, return_stats=True, impl=impl
    )
    assert stats.correct_count.tolist() == [hits]


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
def test_gradcheck_in_float64(impl: str, reduction: str) -> None:
    logits, labels = rows(n_rows=5, n_cols=7)
    labels[1] = -100
    tasks = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    options = {"token_weights": torch.rand(5, dtype=torch.float64), "reduction": reduction, "impl": impl}
    assert torch.autograd.gradcheck(
        lambda z: cotbal.gtw_cross_entropy(z, labels, *tasks, **options), logits.double().requires_grad_()
    )


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum"])
def test_linear_gradcheck_in_float64(impl: str, reduction: str) -> None:
    hidden, weight = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    labels = torch.tensor([6, -100, 0, 3, 3])
    tasks = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: cotbal.linear_gtw_cross_entropy(h, w, labels, *tasks, reduction=reduction, impl=impl),
        (hidden.requires_grad_(), weight.requires_grad_()),
    )


def test_check_gradients_can_fail() -> None:
    logits, labels = rows()
    tasks = {"task_ids": torch.arange(6) % 2, "task_weights": torch.tensor([1.0, 3.0])}

    def unweighted(logits: torch.Tensor, labels: torch.Tensor, *_: object) -> torch.Tensor:
        return F.cross_entropy(logits, labels)

    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(unweighted, logits, labels=labels, **tasks)
    report = cotbal.check_gradients(unweighted, logits, labels=labels, raise_exception=False, **tasks)
    assert not report.ok
    assert report.errors["logits"] > 1e-3
    assert cotbal.check_gradients(unweighted, logits, labels=labels).ok


@fast_impl
def test_backward_twice(impl: str) -> None:
    logits, labels = rows()
    logits.requires_grad_()
    loss = cotbal.gtw_cross_entropy(logits, labels, impl=impl)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss, logits, retain_graph=True)
    (third,) = torch.autograd.grad(loss, logits)
    assert torch.equal(second, 2 * first)
    assert torch.equal(third, first)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, logits)


@fast_impl
def test_a_second_derivative_is_refused(impl: str) -> None:
    logits, labels = rows()
    loss = cotbal.gtw_cross_entropy(logits.requires_grad_(), labels, impl=impl)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, logits, create_graph=True)
    loss = cotbal.linear_gtw_cross_entropy(
        torch.ones(6, 3), torch.ones(50, 3).requires_grad_(), labels, impl=impl
    )
    with pytest.raises(RuntimeError, match="no second derivative"):
        loss.backward(create_graph=True)


@fast_impl
def test_the_logits_are_left_alone(impl: str) -> None:
    logits, labels = rows()
    before = logits.clone()
    cotbal.gtw_cross_entropy(logits.requires_grad_(), labels, impl=impl).backward()
    assert torch.equal(logits, before)


@every_impl
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("reduction", ["weighted_mean", "none"])
def test_hidden_states_of_rows_that_are_not_read_reach_no_gradient(
    impl: str, value: float, reduction: str
) -> None:
    """0 times NaN is NaN in the sum over the rows: of padding, of a token and of a task of weight 0."""
    hidden, head, bias = (rows(*shape)[0] for shape in [(6, 8), (50, 8), (1, 50)])
    options = {"token_weights": torch.tensor([1.0, 1, 0, 1, 1, 1]), "reduction": reduction, "impl": impl}
    ids, weights = torch.tensor([0, 0, 0, 1, 0, 0]), torch.tensor([2.0, 0.0])
    labels, results = torch.tensor([7, -100, 3, 9, 49, 0]), []
    for fill in (0.0, value):
        states = hidden.index_fill(0, torch.tensor([1, 2, 3]), fill)
        leaves = [leaf.clone().requires_grad_() for leaf in (states, head, bias[0])]
        loss = cotbal.linear_gtw_cross_entropy(*leaves[:2], labels, ids, weights, bias=leaves[2], **options)
        results.append((loss, *torch.autograd.grad(loss.sum(), leaves)))
    for expected, got in zip(*results, strict=True):
        assert torch.equal(got, expected)
        assert got.any()


@fast_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_autocast_takes_the_product_to_its_dtype(impl: str, dtype: torch.dtype) -> None:
    """As `torch.nn.functional.linear`, whatever floats meet there: a 16-bit head, a norm in float32."""
    hidden = torch.randn(6, 8, requires_grad=True)
    weight = torch.randn(50, 8, dtype=dtype, requires_grad=True)
    labels = torch.arange(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cotbal.linear_gtw_cross_entropy(hidden, weight, labels, impl=impl)
    # Factors of 16 bits, their product in float32.
    expected = F.cross_entropy(F.linear(hidden.bfloat16().float(), weight.bfloat16().float()), labels)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, LOSS[torch.float32])
    loss.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, dtype)


@fast_impl
def test_offsets_beyond_two_to_the_31(impl: str) -> None:
    """The third row begins at element 2.2e9; memory that is never touched is only address space."""
    stride, n_cols = 1_100_000_000, 40
    logits = torch.empty(2 * stride + n_cols, dtype=torch.float16).as_strided((3, n_cols), (stride, 1))
    values, labels = rows(3, n_cols)
    logits.copy_(values)
    expected = F.cross_entropy(logits.float(), labels, reduction="none")
    leaf = logits.requires_grad_()
    got = cotbal.gtw_cross_entropy(leaf, labels, reduction="none", impl=impl)
    assert_close(got, expected, LOSS[torch.float16])
    (gradient,) = torch.autograd.grad(got.sum(), leaf)
    exact = (values.half().float().softmax(1) - F.one_hot(labels, n_cols)).double()
    assert_close(gradient, exact, RELATIVE[torch.float16])


@pytest.mark.parametrize("n_rows", [1, 130])
@pytest.mark.parametrize("n_cols", [1, 1023, 1025, 16385, 32003])
@fast_impl
@pytest.mark.full
def test_real_blocks_and_vocabularies(impl: str, n_rows: int, n_cols: int) -> None:
    logits, labels = rows(n_rows, n_cols)
    for dtype in LOW_PRECISION:
        cotbal.check_gradients(cotbal.gtw_cross_entropy, (4 * logits).to(dtype), labels=labels, impl=impl)
