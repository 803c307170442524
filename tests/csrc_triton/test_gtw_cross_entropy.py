"""The launcher of the logits kernel: what it writes, and what beside a row it must not look at."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import reference
from csrc_triton.launch import WORD
from csrc_triton.options import LossOptions
from tests.laws.conftest import small_row_launch
from tests.tolerances import LOSS, assert_close, assert_gradients_close

IGNORE, UNTOUCHED = -100, 7.0
# Rows within a word and over several; in a block, which some just fill, and in two passes, whose steps may
# be longer than what is left for them.
WIDTHS = [5, 20, 31, 32, 33, 101, 112]


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
    *,
    reads_unweighted: bool = False,
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
        reads_unweighted=reads_unweighted,
    )


@pytest.mark.parametrize("n_cols", WIDTHS)
@pytest.mark.parametrize("skew", [0, WORD - 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_row_is_written_and_nothing_beside_it(
    n_cols: int, skew: int, smoothing: float, dtype: torch.dtype
) -> None:
    """Rows that are not read are zeros, not what was there; the columns between rows stay as they are.

    The second row starts `skew` columns into a word, later ones each a column earlier.
    """
    generator = torch.Generator().manual_seed(n_cols)
    logits = torch.randn(6, n_cols, generator=generator).to(dtype)
    labels = torch.tensor([IGNORE, 0, n_cols - 1, 1, 2, IGNORE])
    weights = torch.tensor([0.0, 0.5, 2.0, 0.0, 1.5, 0.0])
    read = weights != 0
    # As far apart as each other, so that the kernel may take rows by words.
    stride, columns = (n_cols // WORD + 2) * WORD + skew, slice(3, n_cols + 3)
    between = torch.full((6, stride), math.nan, dtype=dtype)
    between[:, columns] = logits
    written = torch.full_like(between, UNTOUCHED)
    gradient = written[:, columns]
    options = LossOptions(label_smoothing=smoothing)
    losses, correct = run(between[:, columns], labels, weights, gradient, options)

    exact = logits.double().requires_grad_()
    expected = reference.row_losses(exact, labels, read, options)
    (weights * expected).sum().backward()
    assert_close(losses, expected, LOSS[dtype])
    assert correct.tolist() == ((logits.argmax(1) == labels) & read).tolist()
    assert_gradients_close(gradient, exact.grad, dtype)
    assert (gradient[~read] == 0).all()
    written[:, columns] = UNTOUCHED
    assert (written == UNTOUCHED).all()


@pytest.mark.parametrize("n_cols", WIDTHS)
def test_a_row_that_is_read_for_its_weight_alone_has_a_gradient_of_zeros(n_cols: int) -> None:
    """In each of its parts, though its loss is NaN; its label is in any of them."""
    logits = torch.full((4, n_cols), math.inf)
    labels = torch.tensor([0, n_cols - 1, n_cols // 2, IGNORE])
    written = torch.full((4, n_cols + WORD), UNTOUCHED)
    losses, correct = run(logits, labels, torch.zeros(4), written[:, :n_cols], reads_unweighted=True)
    assert losses.isnan().tolist() == [True, True, True, False]
    assert not correct.any()
    assert (written[:, :n_cols] == 0).all()
    assert (written[:, n_cols:] == UNTOUCHED).all()


@pytest.mark.parametrize("n_cols", [15, 33, 112])
@pytest.mark.parametrize("gap", [1, WORD - 1, WORD])
def test_a_gradient_may_start_elsewhere_in_a_word_than_its_logits(n_cols: int, gap: int) -> None:
    """Its rows are not as far apart as those of the logits."""
    logits = torch.randn(3, n_cols, generator=torch.Generator().manual_seed(n_cols))
    labels, weights = torch.tensor([0, n_cols - 1, n_cols // 2]), torch.tensor([0.5, 2.0, 1.0])
    written = torch.full((5, n_cols + gap), UNTOUCHED)
    gradient = written[1:4, :n_cols]
    run(logits, labels, weights, gradient)
    exact = logits.double().requires_grad_()
    losses = reference.row_losses(exact, labels, weights != 0, LossOptions())
    (weights * losses).sum().backward()
    assert_gradients_close(gradient, exact.grad, torch.float32)
    gradient.fill_(UNTOUCHED)
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


@pytest.mark.parametrize("n_cols", [33, 101])
def test_a_tie_anywhere_before_the_label_is_found(n_cols: int) -> None:
    """In each block that is looked through, from the row's first column to the last before the label."""
    logits = torch.eye(n_cols)
    logits[:, n_cols - 1] = 1.0
    _, correct = run(logits, torch.full((n_cols,), n_cols - 1), torch.ones(n_cols))
    assert correct.tolist() == [False] * (n_cols - 1) + [True]


@pytest.mark.parametrize("n_cols", WIDTHS)
def test_a_row_with_a_nan_is_not_correct(n_cols: int) -> None:
    """A maximum passes NaN over; torch's argmax takes it for the largest."""
    logits = torch.zeros(3, n_cols)
    logits[:, 1] = 5.0
    logits[1, n_cols - 1] = logits[2, 0] = math.nan
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


@pytest.mark.parametrize("has_class_weights", [False, True])
@pytest.mark.parametrize("n_cols", WIDTHS)
def test_a_label_of_minus_infinity_counts_in_the_smoothing_alone(
    n_cols: int, has_class_weights: bool
) -> None:
    """All is smoothing: what the label keeps for itself is 0, and its share of the smoothing infinite."""
    logits = torch.zeros(2, n_cols)
    logits[0, 1] = -math.inf
    class_weights = torch.ones(n_cols) if has_class_weights else None
    options = LossOptions(label_smoothing=1.0, class_weights=class_weights)
    losses, _ = run(logits, torch.ones(2, dtype=torch.int64), torch.ones(2), options=options)
    assert losses[0] == math.inf
    assert losses[1].item() == pytest.approx(math.log(n_cols))
