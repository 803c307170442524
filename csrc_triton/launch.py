"""Block size and warps of a launch, by vocabulary. A table, never an autotuner: kernels write in place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Columns per step of a program and warps per program."""

    block: int
    num_warps: int


# Larger blocks spill registers: 16384 columns at 16 and at 32 warps do.
ROW_LAUNCHES = (Launch(1024, 4), Launch(4096, 8), Launch(8192, 16))


def row_launch(n_cols: int) -> Launch:
    """The launch for rows of `n_cols` columns: the smallest block that holds one, else the largest."""
    return next((entry for entry in ROW_LAUNCHES if n_cols <= entry.block), ROW_LAUNCHES[-1])
