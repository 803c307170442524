"""Pieces of a vocabulary in one process: what they tell each other gives what the whole row gives."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csrc_triton import reference, vocab_pieces
from csrc_triton import vocab_parallel as kernels
from csrc_triton.options import LossOptions
from csrc_triton.vocab_pieces import Piece, combine, label_logits
from tests.csrc_triton.compiled import TARGETS, compiled, for_targets
from tests.tolerances import FLOOR, LOSS, RELATIVE, assert_close, assert_losses_close

IGNORE = -100
PATHS = ("torch", "triton")
every_path = pytest.mark.parametrize("path", PATHS)
# Uneven; the first column, the last one and a cut are labels somewhere. 8500 is more than a block.
CUTS = {131: (0, 50, 51, 131), 9000: (0, 8500, 9000)}


def inputs(n_cols: int = 131, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, V), labels with an ignored row, weights with a row of 0."""
    generator = torch.Generator().manual_seed(n_cols)
    logits = (3 * torch.randn(8, n_cols, generator=generator)).to(dtype)
    labels = torch.randint(n_cols, (8,), generator=generator)
    labels[:4] = torch.tensor([0, n_cols - 1, CUTS[n_cols][1], IGNORE])
    weights = 0.5 + torch.rand(8, generator=generator)
    weights[3] = weights[4] = 0.0
    logits[3:5] = math.nan
    return logits, labels, weights


def by_pieces(
    path: str,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    options: LossOptions,
    *,
    cuts: tuple[int, ...] | None = None,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """c (R,), correct (R,) and the gradient (R, V) of sum w c / 2, as the ranks would come to them."""
    cuts = cuts or CUTS[logits.shape[1]]
    read, denominator = weights != 0, torch.tensor(2.0)
    pieces = [Piece(start, stop - start, logits.shape[1]) for start, stop in itertools.pairwise(cuts)]
    columns = [logits[:, piece.start : piece.start + piece.size].clone() for piece in pieces]
    own_x = [label_logits(x, labels, piece, torch.float32) for x, piece in zip(columns, pieces, strict=True)]
    label_x = sum(own_x)
    told, results = [], []
    for x, piece, own in zip(columns, pieces, own_x, strict=True):
        if path == "triton":
            four = kernels.piece_statistics(
                x, labels, label_x, weights, piece, options, want_correct=True, ignore_index=IGNORE
            )
        else:
            four = vocab_pieces.piece_statistics(x, labels, label_x, read, piece, options, want_correct=True)
        told.append(torch.cat([four, own[None]]))
    statistics = combine(torch.stack(told))
    for x, piece in zip(columns, pieces, strict=True):
        gradient = x if in_place else torch.full_like(x, math.nan)
        if path == "triton":
            losses, correct = kernels.piece_losses(
                x,
                labels,
                statistics,
                weights,
                denominator,
                piece,
                options,
                gradient=gradient,
                want_correct=True,
                ignore_index=IGNORE,
            )
        else:
            losses, correct = vocab_pieces.piece_losses(
                x,
                labels,
                statistics,
                read,
                weights / denominator,
                piece,
                options,
                gradient=gradient,
                want_correct=True,
            )
        results.append((losses, correct, gradient))
    for losses, correct, _ in results[1:]:
        assert torch.equal(losses.isnan(), results[0][0].isnan())
        assert torch.equal(losses.nan_to_num(), results[0][0].nan_to_num())
        assert torch.equal(correct, results[0][1])
    return *results[0][:2], torch.cat([gradient for *_, gradient in results], 1)


def expected(
    logits: Tensor, labels: Tensor, weights: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the reference in float64."""
    if options.class_weights is not None:
        options = LossOptions(
            options.label_smoothing, options.z_loss, options.softcap, options.class_weights.double()
        )
    exact = logits.double().requires_grad_()
    losses = reference.row_losses(exact, labels, weights != 0, options)
    (losses * weights.double()).sum().div(2).backward()
    assert exact.grad is not None
    return losses, reference.top1_correct(logits, labels, weights != 0), exact.grad


def all_options(n_cols: int) -> list[LossOptions]:
    class_weights = torch.rand(n_cols, generator=torch.Generator().manual_seed(1)) * 2
    class_weights[::3] = 0.0
    return [
        LossOptions(),
        LossOptions(label_smoothing=0.2),
        LossOptions(z_loss=0.1),
        LossOptions(softcap=4.0),
        LossOptions(class_weights=class_weights),
        LossOptions(label_smoothing=0.2, z_loss=0.1, softcap=4.0, class_weights=class_weights),
    ]


@every_path
@pytest.mark.parametrize("number", range(6), ids=["none", "smoothing", "z", "softcap", "classes", "all"])
@pytest.mark.parametrize("n_cols", sorted(CUTS))
def test_pieces_give_what_the_whole_gives(path: str, number: int, n_cols: int) -> None:
    logits, labels, weights = inputs(n_cols)
    options = all_options(n_cols)[number]
    losses, correct, gradient = by_pieces(path, logits, labels, weights, options)
    expected_losses, expected_correct, expected_gradient = expected(logits, labels, weights, options)
    assert_losses_close(losses, expected_losses, logits.nan_to_num())
    assert torch.equal(correct, expected_correct)
    assert_close(gradient, expected_gradient, RELATIVE[torch.float32], FLOOR[torch.float32])


@every_path
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_place", [False, True])
def test_sixteen_bits(path: str, dtype: torch.dtype, in_place: bool) -> None:
    logits, labels, weights = inputs(dtype=dtype)
    options = all_options(131)[-1]
    losses, _, gradient = by_pieces(path, logits, labels, weights, options, in_place=in_place)
    expected_losses, _, expected_gradient = expected(logits, labels, weights, options)
    assert losses.dtype == torch.float32
    assert gradient.dtype == dtype
    assert_losses_close(losses, expected_losses, logits.nan_to_num())
    assert_close(gradient, expected_gradient, RELATIVE[dtype], FLOOR[dtype])


@every_path
@pytest.mark.parametrize("margin", [20.0, 60.0])
def test_a_confident_token_keeps_its_gradient_and_loss(path: str, margin: float) -> None:
    """The others of all pieces are summed apart from the label, relative to the largest logit of all."""
    logits = torch.zeros(1, 64)
    logits[0, 5] = margin
    one, labels = torch.ones(1), torch.tensor([5])
    loss, _, gradient = by_pieces(path, logits, labels, one, LossOptions(), cuts=(0, 16, 32, 64))
    others = 63 * math.exp(-margin)
    assert loss.item() == pytest.approx(math.log1p(others), rel=LOSS[torch.float32])
    assert gradient[0, 5].item() == pytest.approx(-others / (1 + others) / 2, rel=LOSS[torch.float32])


@every_path
@pytest.mark.parametrize("label", [0, 15, 16, 40, 63])
def test_top1_is_the_lowest_index_among_ties_of_all_pieces(path: str, label: int) -> None:
    logits, labels = torch.zeros(4, 64), torch.full((4,), label)
    logits[0, label] = 1.0
    logits[1, [16, 40]] = 1.0
    logits[2, [15, 63]] = 1.0
    # Ties after the softcap, not before it.
    logits[3] = 200.0
    logits[3, 40] = 300.0
    cuts = (0, 16, 32, 64)
    _, correct, _ = by_pieces(path, logits, labels, torch.ones(4), LossOptions(softcap=1.0), cuts=cuts)
    assert correct.tolist() == [True, label == 16, label == 15, label == 40]


@every_path
@pytest.mark.parametrize("place", [(0, 16), (16, 32), (32, 64)])
def test_a_piece_of_minus_infinity(path: str, place: tuple[int, int]) -> None:
    logits = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([place[1] % 64, (place[0] - 1) % 64])
    logits[:, slice(*place)] = -math.inf
    arguments = logits, labels, torch.ones(2), LossOptions(z_loss=0.1)
    losses, correct, gradient = by_pieces(path, *arguments, cuts=(0, 16, 32, 64))
    expected_losses, expected_correct, expected_gradient = expected(*arguments)
    assert_losses_close(losses, expected_losses, torch.ones(1))
    assert torch.equal(correct, expected_correct)
    assert_close(gradient, expected_gradient, RELATIVE[torch.float32])


@every_path
@pytest.mark.parametrize(
    "entries",
    [
        {3: math.nan},
        {40: math.nan},
        {3: math.inf},
        {40: math.inf},
        {40: -math.inf},
        dict.fromkeys(range(64), -math.inf),
    ],
    ids=["nan", "nan at the label", "inf", "inf at the label", "-inf at the label", "-inf everywhere"],
)
def test_what_is_not_finite_is_as_in_torch(path: str, entries: dict[int, float]) -> None:
    logits = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    for column, value in entries.items():
        logits[0, column] = value
    labels = torch.tensor([40, 1])
    losses, correct, gradient = by_pieces(
        path, logits, labels, torch.ones(2), LossOptions(), cuts=(0, 16, 32, 64)
    )
    exact = logits.clone().requires_grad_()
    expected_losses = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    expected_losses.sum().div(2).backward()
    assert exact.grad is not None
    assert_close(losses, expected_losses, LOSS[torch.float32])
    assert not losses[0].isfinite()
    assert not correct[0]
    assert torch.equal(gradient.isnan(), exact.grad.isnan())


@every_path
@pytest.mark.parametrize("column", [3, 40, 63])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_with_a_nan_or_inf_is_not_correct(path: str, column: int, value: float) -> None:
    """Though its label has the largest number."""
    logits = torch.zeros(1, 64)
    logits[0, 40] = 5.0
    logits[0, column] = value
    _, correct, _ = by_pieces(
        path, logits, torch.tensor([40]), torch.ones(1), LossOptions(), cuts=(0, 16, 32, 64)
    )
    assert not correct[0]


@every_path
def test_the_first_of_a_row_of_minus_infinity_is_its_largest(path: str) -> None:
    """As without pieces, though the row's loss is NaN."""
    logits = torch.full((2, 64), -math.inf)
    losses, correct, gradient = by_pieces(
        path, logits, torch.tensor([0, 16]), torch.ones(2), LossOptions(), cuts=(0, 16, 64)
    )
    assert losses.isnan().all()
    assert gradient.isnan().all()
    assert correct.tolist() == [True, False]


@every_path
@pytest.mark.parametrize("label_weight", [0.0, 1.0])
def test_a_label_of_minus_infinity_counts_in_the_smoothing_alone(path: str, label_weight: float) -> None:
    """All is smoothing: the label keeps nothing for itself, and its share is infinite if its class counts."""
    logits = torch.zeros(1, 64)
    logits[0, 40] = -math.inf
    class_weights = torch.ones(64).index_fill_(0, torch.tensor([40]), label_weight)
    options = LossOptions(label_smoothing=1.0, class_weights=class_weights)
    (loss,), *_ = by_pieces(path, logits, torch.tensor([40]), torch.ones(1), options, cuts=(0, 16, 64))
    assert loss.item() == pytest.approx(math.log(63) * 63 / 64 if label_weight == 0 else math.inf)


@every_path
def test_a_label_outside_the_vocabulary_is_no_plausible_number(path: str) -> None:
    logits = torch.zeros(2, 64)
    losses, _, gradient = by_pieces(
        path, logits, torch.tensor([64, -1]), torch.ones(2), LossOptions(), cuts=(0, 16, 64)
    )
    assert losses.isnan().all()
    assert gradient.isnan().all()


def test_kernel_and_torch_path_agree_on_what_a_piece_tells() -> None:
    logits, labels, weights = inputs()
    piece, options = Piece(51, 80, 131), all_options(131)[-1]
    x = logits[:, 51:]
    label_x = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    told = vocab_pieces.piece_statistics(x, labels, label_x, weights != 0, piece, options, want_correct=True)
    by_kernel = kernels.piece_statistics(
        x, labels, label_x, weights, piece, options, want_correct=True, ignore_index=IGNORE
    )
    assert_close(by_kernel[:3], told[:3], RELATIVE[torch.float32])
    assert torch.equal(by_kernel[3] != 0, told[3] != 0)
    assert (told[:, weights == 0] == 0).all()
    assert (by_kernel[:, weights == 0] == 0).all()


@TARGETS
def test_kernels_compile_without_spills(tmp_path: Path, targets: tuple[str, ...]) -> None:
    lines = compiled("vocab_parallel_compile", tmp_path, *for_targets(targets))
    assert len(lines) == len(targets) * 2 * 2 * 2
    for line in lines:
        if "registers" in line:
            assert line["spill_bytes"] == 0, line
            assert line["wide_loads"], line
            assert line["wide_stores"] == ("losses" in line["kernel"]), line
