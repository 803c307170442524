"""The kernel by the launches in use: the laws take small ones, which cross every boundary but these."""

import pytest
import torch

pytest.importorskip("triton")

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import launch as table
from csrc_triton import reference
from csrc_triton.options import LossOptions
from tests.tolerances import LOSS, assert_close, assert_gradients_close

OPTIONS = {
    "plain": LossOptions(),
    "smoothing": LossOptions(label_smoothing=0.1),
    "all": LossOptions(label_smoothing=0.2, z_loss=0.01, softcap=9.0),
}
RESIDENT = {launch.block for launch in (*table.RESIDENT, *table.ELEMENTWISE_RESIDENT)}
# Around the widths at which the launch changes, and of every rest that a step leaves in two passes.
ENDS = sorted({block + more for block in RESIDENT for more in (-1, 0, 1)})
RESTS = [8192 + rest for rest in range(256, 1280, 128)] + [
    32768 + rest for rest in (5000, 9001, 16384, 16385)
]


@pytest.mark.full
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_cols", [*ENDS, *RESTS])
@pytest.mark.parametrize("gap", [0, 16, 15])
def test_a_row_of_any_width_is_read_and_written_whole(n_cols: int, gap: int, options: str) -> None:
    """Every column once, those of the next row never."""
    assert_read_and_written_whole(n_cols, gap, OPTIONS[options])


@pytest.mark.parametrize("n_cols", [32768 + 16, 98304 - 16])
def test_a_row_is_read_and_written_whole_in_long_steps(n_cols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Hopper: a step that the row just begins, and several with a block that is nearly full."""
    monkeypatch.setattr(kernel, "takes_long_steps", lambda *_: True)
    launched = []
    monkeypatch.setattr(
        kernel,
        "row_launch",
        lambda *given, **how: launched.append(table.row_launch(*given, **how)) or launched[-1],
    )
    assert_read_and_written_whole(n_cols, 0, LossOptions(z_loss=0.01))
    assert launched == [table.LONG_STEPS]


def assert_read_and_written_whole(n_cols: int, gap: int, options: LossOptions) -> None:
    logits = 3 * torch.randn(2, n_cols, generator=torch.Generator().manual_seed(n_cols))
    labels, weights = torch.tensor([n_cols - 1, n_cols // 2]), torch.tensor([0.5, 2.0])
    between = torch.full((3, n_cols + gap), 50.0)
    between[:2, :n_cols] = logits
    written = torch.full_like(between, 7.0)
    losses, correct = kernel.gtw_cross_entropy_forward(
        between[:2, :n_cols],
        labels,
        weights,
        None,
        options,
        gradient=written[:2, :n_cols],
        want_correct=True,
        ignore_index=-100,
    )
    exact, read = logits.double().requires_grad_(), torch.ones(2, dtype=torch.bool)
    expected = reference.row_losses(exact, labels, read, options)
    (weights * expected).sum().backward()
    assert_close(losses, expected, LOSS[torch.float32])
    assert correct.tolist() == reference.top1_correct(logits, labels, read).tolist()
    assert_gradients_close(written[:2, :n_cols], exact.grad, torch.float32, roundings=2)
    written[:2, :n_cols] = 7.0
    assert (written == 7).all()


def test_steps_are_not_summed_up_by_word() -> None:
    """The kernel would leave the columns of its steps out."""
    with pytest.raises(ValueError, match="by_word: expected it of a row that is read once, got steps of 16"):
        table.Launch(32, 1, step=16, by_word=True)
