"""The one table of tolerances; each entry says why it is what it is."""

import torch

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


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """max |actual - expected| <= relative * max |expected|; the same places are not finite."""
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(actual.isfinite(), finite)
    assert torch.equal(actual.isnan(), expected.isnan())
    if finite.any():
        error = (actual - expected)[finite].abs().max().item()
        assert error <= relative * expected[finite].abs().max().item(), (error, relative)
