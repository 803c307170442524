"""The one table of tolerances; each entry says why it is what it is."""

import torch
from torch import Tensor

# Relative to the largest entry of the expected tensor.
RELATIVE = {
    # Sums of at most a few thousand terms, each rounded once, in float64.
    torch.float64: 1e-12,
    # The same in float32: 8 units in the last place.
    torch.float32: 8 * 2.0**-23,
    # Computed in float32 and rounded once to 8 bits: half a unit, and one where the sums fall on either side.
    torch.bfloat16: 1.5 * 2.0**-8,
    # Likewise with 11 bits.
    torch.float16: 1.5 * 2.0**-11,
}

# Losses are float32 even for 16-bit logits.
LOSS = {dtype: RELATIVE[torch.float64 if dtype == torch.float64 else torch.float32] for dtype in RELATIVE}

# Absolute, for gradients of tiny entries only: the expected p - 1 is itself rounded relative to 1 (float64);
# float16 cannot tell apart what is less than its smallest step.
FLOOR = {dtype: 2.0**-24 if dtype == torch.float16 else 2.0**-50 for dtype in RELATIVE}


def assert_close(actual: Tensor, expected: Tensor, relative: float, floor: float = 0.0) -> None:
    """max |actual - expected| <= relative * max |expected| + floor; the same places are not finite."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(actual.isfinite(), finite)
    assert torch.equal(actual.isnan(), expected.isnan())
    if finite.any():
        error = (actual - expected)[finite].abs().max().item()
        assert error <= relative * expected[finite].abs().max().item() + floor, (error, relative, floor)


def assert_gradients_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, roundings: int = 1) -> None:
    """Gradients in `dtype`; `roundings` is how often the expected one was rounded on its way."""
    assert_close(actual, expected, roundings * RELATIVE[dtype], roundings * FLOOR[dtype])


def assert_losses_close(actual: Tensor, expected: Tensor, logits: Tensor, scale: float = 1.0) -> None:
    """Losses of `logits`: differences of logits, so rounded relative to the largest of them.

    Args:
        actual: the loss.
        expected: what it should be.
        logits: what it was computed from.
        scale: the sum of the weights where the loss is not divided by it.
    """
    tolerance = LOSS[logits.dtype]
    assert_close(actual, expected, tolerance, tolerance * scale * logits.detach().double().abs().max().item())
