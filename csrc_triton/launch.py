"""Blocks and warps of a launch, by vocabulary, dtype and GPU. A table, never an autotuner.

With the pinned Triton every entry compiles to 128-bit loads and stores and spills no register
(`tests/csrc_triton/test_compile.py`); with others a few spill 8 to 72 bytes (`make test-torch` lists them).
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# Rows may start anywhere in a word of this many columns: up to one column less of them is lost at its ends.
WORD = 16
# Threads of a warp: 64 on AMD's data-centre GPUs; a program has at most 1024.
WARP_SIZE, _MOST_THREADS = 32 if torch.version.hip is None else 64, 1024


@dataclass(frozen=True)
class Launch:
    """How the program of a row divides it.

    Attributes:
        block: columns held in registers, read once; the last ones of a longer row.
        num_warps: warps of a program, of 32 threads each.
        step: columns of a step through those before the block, read twice; 0 where there are none.
        registers: that a thread has at most, so that several programs fit; None: as many as it takes.
        by_word: sum up 128 bits at a time while the rest of the row is on its way, where one program fills a
            multiprocessor and none computes meanwhile; of plain rows of 16 bits, others would spill.
        stages: of the compiler's pipeline, in which rows (of two passes: steps) are read into shared memory
            while those before are computed; 1 for none. Rows only where they are summed up by word.
    """

    block: int
    num_warps: int
    step: int = 0
    registers: int | None = None
    by_word: bool = False
    stages: int = 1

    def __post_init__(self) -> None:
        if self.by_word and self.step:
            raise ValueError(f"by_word: expected it of a row that is read once, got steps of {self.step}")

    def warps(self, warp_size: int) -> int:
        """The warps of a program, fewer where `num_warps` of this size are too many threads."""
        return min(self.num_warps, _MOST_THREADS // warp_size)

    def has_scales(self, itemsize: int, *, is_plain: bool) -> bool:
        """Whether a lane of a row of `itemsize` bytes a column is 128 bits, summed up by itself."""
        return self.by_word and is_plain and itemsize == 2

    def lanes(self, itemsize: int, warp_size: int, *, has_scales: bool) -> int:
        """The lanes of a row of `itemsize` bytes a column: one for each thread, or for each 128 bits."""
        words = min(self.block, self.step or self.block) * itemsize // 16
        return words if has_scales else min(words, self.warps(warp_size) * warp_size)


RESIDENT = (
    Launch(1024, 4),
    Launch(2048, 4),
    Launch(4096, 8),
    Launch(8192, 8),
    Launch(16384, 16),
    Launch(32768, 32, by_word=True),
)
TWO_PASSES = Launch(32768, 32, step=16384)
# Longer steps have more bytes on their way: faster on Hopper, where 16-bit rows without edges spill nothing.
LONG_STEPS = Launch(32768, 32, step=32768)
# A gradient of 32 bits takes registers besides.
WIDE_TWO_PASSES = Launch(16384, 32, step=16384)
# Edges take a register more; with as many warps one would be put aside on sm_80.
EDGES_TWO_PASSES = Launch(16384, 16, step=16384)
# Nothing is kept for a gradient, so one pass in small steps: the positions of a larger block would spill.
LOSS_ALONE = Launch(4096, 16, step=4096)
# Softcap and smoothing need the logits, and class weights, beside their exponentials: twice the registers.
# With fewer, as compilers choose, one would be put aside.
ELEMENTWISE_RESIDENT = (
    Launch(1024, 4, registers=128),
    Launch(2048, 4, registers=128),
    Launch(8192, 16, registers=128),
)
ELEMENTWISE_TWO_PASSES = Launch(1024, 4, step=1024, registers=96)
STREAMS = (Launch(1024, 4), Launch(4096, 8))


def row_launch(
    n_cols: int,
    *,
    is_aligned: bool,
    is_elementwise: bool,
    has_gradient: bool,
    takes_long_steps: bool = False,
    is_wide: bool = False,
) -> Launch:
    """The launch for rows of `n_cols` columns: the smallest entry that holds one, else two passes.

    Args:
        n_cols: the vocabulary.
        is_aligned: whether `n_cols` and the row stride are multiples of `WORD`.
        is_elementwise: whether softcap or label smoothing is on.
        has_gradient: whether a gradient is written.
        takes_long_steps: as that function says of the rows.
        is_wide: whether the gradient has 32 bits.
    """
    # Wherever a row starts, the positions of its whole words end below `n_cols` rounded up to one.
    if is_elementwise:
        return _smallest(n_cols, ELEMENTWISE_RESIDENT, ELEMENTWISE_TWO_PASSES)
    if not has_gradient:
        return _smallest(n_cols, RESIDENT, LOSS_ALONE)
    if not is_aligned:
        return _smallest(n_cols, RESIDENT, EDGES_TWO_PASSES)
    if takes_long_steps:
        return _smallest(n_cols, RESIDENT, LONG_STEPS)
    return _smallest(n_cols, RESIDENT, WIDE_TWO_PASSES if is_wide else TWO_PASSES)


def takes_long_steps(*rows: Tensor) -> bool:
    """Whether logits and gradient have 16 bits and are on a Hopper GPU; nothing is waited for."""
    return all(each.is_cuda and each.element_size() == 2 and _is_hopper(each.device) for each in rows)


@cache
def _is_hopper(device: torch.device) -> bool:
    # AMD's MI300 is 9.4 to torch.
    return torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == 9


def stream_launch(n_cols: int) -> Launch:
    """The launch of a kernel that only scales rows: the smallest block that holds one, else the largest."""
    return _smallest(n_cols, STREAMS, STREAMS[-1])


def _smallest(n_cols: int, entries: tuple[Launch, ...], otherwise: Launch) -> Launch:
    """The first of the entries whose block holds `n_cols` columns."""
    return next((entry for entry in entries if n_cols <= entry.block), otherwise)


def compile_options(
    num_warps: int, registers: int | None = None, warp_size: int = WARP_SIZE
) -> dict[str, int | bool]:
    """What a kernel is compiled with: its warps, its registers, and a * b + c rounded once.

    The last is said because Triton 3.10 no longer does so by itself: the table's registers, and the last
    bit of a loss, would be others. Triton refuses a bound of the registers on AMD's GPUs.
    """
    options: dict[str, int | bool] = {"num_warps": num_warps, "enable_fp_fusion": True}
    return options if registers is None or warp_size != 32 else options | {"maxnreg": registers}


def on_gpu_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Makes the tensor's GPU the current one: a kernel starts there, whichever its tensors are on.

    A model that is spread over GPUs has its head on another than the current one. Nothing on a CPU.
    """
    return torch.cuda.device_of(tensor)
