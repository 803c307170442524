"""Block size and warps of a launch, by vocabulary. A table, never an autotuner: kernels write in place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Columns per step of a program and warps per program."""

    block: int
    num_warps: int


_BY_BLOCK = (Launch(1024, 4), Launch(4096, 8), Launch(16384, 16))


def row_launch(n_cols: int) -> Launch:
    """The launch for rows of `n_cols` columns: the smallest block that holds one, else the largest."""
    return next((entry for entry in _BY_BLOCK if n_cols <= entry.block), _BY_BLOCK[-1])
