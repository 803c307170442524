"""The launcher of the logits kernel: what it writes, and what beside a row it must not look at."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import reference
from csrc_triton.options import LossOptions
from tests.laws.conftest import small_row_launch
from tests.tolerances import LOSS, assert_close, assert_gradients_close

IGNORE, UNTOUCHED = -100, 7.0
# Rows within one word and over several; in one block and in two passes; whole words, and not.
WIDTHS = [5, 20, 32, 33, 96, 101]


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And blocks are small: each width above takes another path."""
    monkeypatch.setattr(kernel, "row_launch", small_row_launch)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    gradient: Tensor | None = None,
    options: LossOptions = LossOptions(),
) -> tuple[Tensor, Tensor]:
    return kernel.gtw_cross_entropy_forward(
        logits,
        labels,
        weights,
        None,
        options,
        gradient=gradient,
        want_correct=True,
        ignore_index=IGNORE,
    )


@pytest.mark.parametrize("n_cols", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_row_is_written_and_nothing_beside_it(n_cols: int, dtype: torch.dtype) -> None:
    """Rows that are not read are zeros, not what was there; the columns between rows stay as they are."""
    generator = torch.Generator().manual_seed(n_cols)
    logits = torch.randn(6, n_cols, generator=generator).to(dtype)
    labels = torch.tensor([0, IGNORE, n_cols - 1, 1, 2, IGNORE])
    weights = torch.tensor([0.5, 0.0, 2.0, 0.0, 1.5, 0.0])
    read = weights != 0
    # As far apart as each other, so that the kernel may take rows by words.
    between, columns = torch.full((6, n_cols + 16), float("nan"), dtype=dtype), slice(3, n_cols + 3)
    between[:, columns] = logits
    written = torch.full_like(between, UNTOUCHED)
    gradient = written[:, columns]
    losses, correct = run(between[:, columns], labels, weights, gradient)

    exact = logits.double().requires_grad_()
    expected = reference.row_losses(exact, labels, read, LossOptions())
    (weights * expected).sum().backward()
    assert_close(losses, expected, LOSS[dtype])
    assert correct.tolist() == ((logits.argmax(1) == labels) & read).tolist()
    assert_gradients_close(gradient, exact.grad, dtype)
    assert (gradient[~read] == 0).all()
    written[:, columns] = UNTOUCHED
    assert (written == UNTOUCHED).all()


@pytest.mark.parametrize("n_cols", [5, 20, 33, 101])
@pytest.mark.parametrize("label", [0, 2])
def test_an_equal_logit_in_the_row_before_is_no_tie(n_cols: int, label: int) -> None:
    """The word in which a row starts has columns of the row before; the label's own tie comes after it."""
    logits = torch.zeros(4, n_cols)
    logits[0] = 5.0
    logits[1:, label] = logits[1:, n_cols - 1] = 5.0
    _, correct = run(logits, torch.tensor([1, label, label, n_cols - 1]), torch.ones(4))
    assert correct.tolist() == [False, True, True, False]


@pytest.mark.parametrize("n_cols", WIDTHS)
def test_a_row_with_a_nan_is_not_correct(n_cols: int) -> None:
    """A maximum passes NaN over; torch's argmax takes it for the largest."""
    logits = torch.zeros(3, n_cols)
    logits[:, 1] = 5.0
    logits[1, n_cols - 1] = logits[2, 0] = float("nan")
    _, correct = run(logits, torch.ones(3, dtype=torch.int64), torch.ones(3))
    assert correct.tolist() == [True, False, False]


@pytest.mark.parametrize("n_cols", WIDTHS)
def test_a_hit_is_decided_before_the_cap_in_every_part_of_a_row(n_cols: int) -> None:
    """The cap makes 20 and 30 the same number, among the first columns as among the last."""
    logits = torch.zeros(4, n_cols)
    logits[:2, 1], logits[:2, 3] = 20.0, 30.0
    logits[2:, n_cols - 2], logits[2:, n_cols - 1] = 30.0, 20.0
    labels = torch.tensor([1, 3, n_cols - 1, n_cols - 2])
    _, correct = run(logits, labels, torch.ones(4), options=LossOptions(softcap=1.0))
    assert correct.tolist() == [False, True, False, True]
