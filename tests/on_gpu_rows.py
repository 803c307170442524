"""Checks of a real GPU on rows that are left out, not finite, apart in memory, or very many."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu_inputs import PLAIN, Check, every_option, inputs, normal

DTYPES = (torch.bfloat16, torch.float32)
LONGEST_LINEAR = 32003
# A GPU leaves rows out by 128: of fewer all keep their places.
MORE_ROWS = 20
# By row: how far from the label it is, and what stands there.
BAD = {1: (1, math.nan), 4: (0, math.nan), 5: (1, math.inf), 7: (1, -math.inf)}
UNREAD = 8
# Larger than every logit, and a number of every dtype.
BESIDE = 8192.0


def left_out(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """Of the rows nine tenths are left out, and NaN: their gradient is 0, and none of it is elsewhere."""
    import cotbal

    for n_cols, dtype, has_options in product(vocabularies, DTYPES, (False, True)):
        what = f"V = {n_cols}, {dtype}, {'all' if has_options else 'no'} options"
        check = partial(same_without, device, n_cols, dtype, has_options)
        yield f"left out, logits, {what}", partial(check, cotbal.gtw_cross_entropy, rows)
        if n_cols <= LONGEST_LINEAR:
            linear = partial(check, cotbal.linear_gtw_cross_entropy, MORE_ROWS * rows, width=64)
            count = int((few("cpu", MORE_ROWS * rows, n_cols)["labels"] >= 0).sum())
            yield f"left out, linear, {what}", partial(linear, valid_count=count, reduction="none")
            yield f"left out, linear in chunks, {what}", partial(linear, memory_budget="min")
    yield "left out, logits, all rows", partial(nothing_is_read, device, cotbal.gtw_cross_entropy)
    yield "left out, linear, all rows", partial(nothing_is_read, device, cotbal.linear_gtw_cross_entropy)


def few(device: str, rows: int, n_cols: int) -> dict[str, Tensor]:
    """As `inputs`, of whose labels the first of ten stays."""
    given = inputs(device, rows=rows, n_cols=n_cols)
    stays = torch.arange(rows, device=device) % 10 == 1
    return given | {"labels": given["labels"].where(stays, -100)}


def same_without(
    device: str,
    n_cols: int,
    dtype: torch.dtype,
    has_options: bool,
    fn: Callable[..., Any],
    rows: int,
    *,
    width: int | None = None,
    **how: Any,
) -> None:
    import cotbal

    given = few(device, rows, n_cols) | (every_option(device, n_cols, rows) if has_options else PLAIN)
    features = normal(rows, width or n_cols, device=device, dtype=dtype)
    head = () if width is None else (normal(n_cols, width, device=device, dtype=dtype) / 4,)
    # Added, so that a gradient of these rows would come through.
    unread = torch.zeros_like(features)
    unread[given["labels"] < 0] = math.nan

    def with_unread(features: Tensor, *arguments: Any, **options: Any) -> Any:
        return fn(features + unread, *arguments, **options)

    cotbal.check_gradients(with_unread, features, *head, impl="triton", upstream=0.25, **given, **how)


def nothing_is_read(device: str, fn: Callable[..., Any], rows: int = 300, width: int = 40) -> None:
    features = torch.full((rows, width), math.nan, device=device, requires_grad=True)
    head = (torch.ones(50, width, device=device),) if fn.__name__.startswith("linear") else ()
    loss = fn(features, *head, torch.full((rows,), -100, device=device), impl="triton")
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def not_finite(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """NaN and infinities among the logits, and NaN where the gradient is to be written."""
    for n_cols, dtype, has_options in product(vocabularies, DTYPES, (False, True)):
        for in_place, start in product((False, True), (0, 3)):
            where = f"{'in place' if in_place else 'apart'} from column {start}"
            what = f"V = {n_cols}, {dtype}, {'all' if has_options else 'no'} options"
            check = partial(every_row_is_written, device, n_cols, rows, dtype, has_options, in_place, start)
            yield f"not finite, {where}, {what}", check


def every_row_is_written(
    device: str, n_cols: int, rows: int, dtype: torch.dtype, has_options: bool, in_place: bool, start: int
) -> None:
    """As float64 has it, 0 at rows that are left out; what is beside the rows is neither read nor written."""
    from csrc_triton import gtw_cross_entropy as kernel
    from csrc_triton import reference
    from csrc_triton.launch import WORD
    from csrc_triton.options import LossOptions

    given = every_option(device, n_cols, rows) if has_options else {}
    weights = given.pop("token_weights", torch.zeros(rows, device=device)) + 0.5
    options, labels = LossOptions(**given), inputs(device, rows=rows, n_cols=n_cols)["labels"]
    weights[labels < 0], weights[UNREAD] = 0, 0
    # Rows that all begin with a word where the vocabulary ends with one, and rows that begin anywhere in it.
    columns, width = slice(start, start + n_cols), start + n_cols + (9 if start else WORD)
    held = torch.full((rows, width), BESIDE, device=device, dtype=dtype)
    logits = held[:, columns]
    logits.copy_(normal(rows, n_cols, device=device, dtype=dtype))
    logits[weights == 0] = math.nan
    for row, (distance, value) in BAD.items():
        logits[row, (labels[row] + distance) % n_cols] = value
    exact, read = logits.double().requires_grad_(), weights != 0
    want = reference.row_losses(exact, labels, read, options)
    (weights * want).sum().backward()
    want_correct = reference.top1_correct(logits, labels, read, options.softcap)
    written = held if in_place else torch.full_like(held, BESIDE)
    gradient = written[:, columns]
    if not in_place:
        gradient.fill_(math.nan)
    losses, correct = kernel.gtw_cross_entropy_forward(
        logits, labels, weights, None, options, gradient=gradient, want_correct=True, ignore_index=-100
    )
    assert_near(losses, want.detach(), 1e-5)
    # One unit for the rounding, one for an exponential.
    assert_near(gradient, exact.grad, max(2 * torch.finfo(dtype).eps, 1e-5))
    assert torch.equal(correct, want_correct)
    assert (gradient[~read] == 0).all(), "a row that is left out has a gradient"
    gradient.fill_(BESIDE)
    assert (written == BESIDE).all(), "something beside the rows was written"


def assert_near(got: Tensor, want: Tensor, relative: float) -> None:
    """NaN in the same places; elsewhere near, in units of the largest."""
    assert torch.equal(got.isnan(), want.isnan()), "NaN stands elsewhere"
    finite = ~want.isnan()
    error, largest = (got.double() - want)[finite].abs().max(), want[finite].abs().max()
    assert error <= relative * largest, f"off by {error:.1e} of {largest:.1e}"


def within_wider_rows(rows: Tensor) -> Tensor:
    return F.pad(rows, (3, 6), value=math.nan)[:, 3:-6]


def every_second_row(rows: Tensor) -> Tensor:
    return torch.stack([rows, torch.full_like(rows, math.nan)], 1)[:, 0]


def columns_first(rows: Tensor) -> Tensor:
    return rows.t().contiguous().t()


VIEWS = (within_wider_rows, every_second_row, columns_first)


def views(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """Rows that are not contiguous, at both levels; over themselves too."""
    import cotbal

    dtype = torch.bfloat16
    for n_cols, view in product(vocabularies, VIEWS):
        check = partial(
            cotbal.check_gradients, impl="triton", upstream=0.25, **inputs(device, rows=rows, n_cols=n_cols)
        )
        on_view = partial(through_view, cotbal.gtw_cross_entropy, view, 1)
        logits = normal(rows, n_cols, device=device, dtype=dtype)
        what = f"{view.__name__}, V = {n_cols}"
        yield f"views, logits, {what}", partial(check, on_view, logits)
        yield f"views, in place, {what}", partial(check, partial(on_view, inplace=True), logits)
        if n_cols <= LONGEST_LINEAR:
            hidden, weight = (normal(count, 64, device=device, dtype=dtype) / 4 for count in (rows, n_cols))
            linear = partial(through_view, cotbal.linear_gtw_cross_entropy, view, 2)
            yield f"views, linear, {what}", partial(check, linear, hidden, weight)


def through_view(
    fn: Callable[..., Any], view: Callable[[Tensor], Tensor], count: int, *arguments: Any, **options: Any
) -> Any:
    """`fn` of views of its first arguments."""
    features = [view(each) for each in arguments[:count]]
    assert not any(each.is_contiguous() for each in features)
    return fn(*features, *arguments[count:], **options)


def beyond_31_bits(device: str, *, tiny: bool) -> Iterator[Check]:
    """The last rows of 2^31 logits (4.3 GB) and more, over themselves: 32 bits do not reach them."""
    from tests.csrc_triton.row_kernels import piece_gradient, row_gradient

    n_elements, n_cols = (400, 40) if tiny else (2**31, 131072)
    for kernel in (row_gradient, piece_gradient):
        check = partial(last_rows_are_reached, kernel, device, n_elements // n_cols + 3, n_cols)
        yield f"beyond 2^31 elements, {kernel.__name__}", check


def last_rows_are_reached(kernel: Callable[..., Tensor], device: str, n_rows: int, n_cols: int) -> None:
    from csrc_triton.gather_rows import gather_rows
    from csrc_triton.gtw_cross_entropy import scale_rows_

    half, own = torch.tensor(0.5, device=device), normal(3, n_cols, device=device, dtype=torch.bfloat16)
    labels = torch.full((n_rows,), -100, device=device)
    labels[-3:] = torch.tensor([0, 1, n_cols - 1], device=device)
    logits = own.new_zeros(n_rows, n_cols)
    logits[-3:] = own
    for rows, theirs in ((logits, labels), (own, labels[-3:])):
        kernel(rows, rows, theirs)
        scale_rows_(rows, half, theirs)
    last = torch.arange(n_rows - 3, n_rows, device=device)
    assert torch.equal(gather_rows(logits, last, out=torch.empty_like(own)), own)
    assert own.isfinite().all()
    assert own.any(1).all()
    assert not logits[:-3].any(), "a row that is left out was written"
