"""Blocks, warps and clusters of a launch, by vocabulary and device. A table, never an autotuner.

Every entry compiles to 128-bit loads and stores and spills no register (`tests/csrc_triton/test_compile.py`).
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
    """How the programs of a row divide it.

    Attributes:
        block: columns held in registers, read once; the last ones of a longer row.
        num_warps: warps of a program, of 32 threads each.
        tail: columns held in registers besides `block`; 0 for none.
        num_ctas: programs of the cluster that shares a row.
        step: columns of a step through those before the block, read twice; 0 where there are none.
    """

    block: int
    num_warps: int
    tail: int = 0
    num_ctas: int = 1
    step: int = 0

    @property
    def capacity(self) -> int:
        """The columns that fit into registers."""
        return self.block + self.tail

    def warps(self, warp_size: int) -> int:
        """The warps of a program, fewer where `num_warps` of this size are too many threads."""
        return min(self.num_warps, _MOST_THREADS // warp_size)


RESIDENT = (
    Launch(1024, 4),
    Launch(2048, 4),
    Launch(4096, 8),
    Launch(8192, 8),
    Launch(16384, 16),
    Launch(32768, 32),
)
TWO_PASSES = Launch(32768, 32, step=16384)
# 16 warps rather than 32: two programs share a multiprocessor, and one loads while the other computes.
CLUSTERS = (
    Launch(65536, 16, num_ctas=4),
    Launch(131072, 16, num_ctas=8),
    Launch(131072, 16, tail=32768, num_ctas=8),
    Launch(262144, 32, num_ctas=8),
    Launch(262144, 32, tail=8192, num_ctas=8),
)
# Softcap and smoothing need the logits, and class weights, beside their exponentials: twice the registers.
ELEMENTWISE_RESIDENT = (Launch(1024, 4), Launch(2048, 4), Launch(8192, 8))
ELEMENTWISE_TWO_PASSES = Launch(512, 4, step=1024)
STREAMS = (Launch(1024, 4), Launch(4096, 8))


def row_launch(n_cols: int, *, is_aligned: bool, is_elementwise: bool, has_clusters: bool) -> Launch:
    """The launch for rows of `n_cols` columns: the smallest entry that holds one, else two passes.

    Args:
        n_cols: the vocabulary.
        is_aligned: whether `n_cols` and the row stride are multiples of `WORD`.
        is_elementwise: whether softcap or label smoothing is on.
        has_clusters: `has_clusters(device)`.
    """
    entries, otherwise = RESIDENT + CLUSTERS * has_clusters, TWO_PASSES
    if is_elementwise:
        entries, otherwise = ELEMENTWISE_RESIDENT, ELEMENTWISE_TWO_PASSES
    if is_aligned:
        return next((entry for entry in entries if n_cols <= entry.capacity), otherwise)
    # The edges of such rows take the place of a tail.
    width = n_cols + WORD - 1
    return next((entry for entry in entries if not entry.tail and width <= entry.block), otherwise)


def stream_launch(n_cols: int) -> Launch:
    """The launch of a kernel that only scales rows: the smallest block that holds one, else the largest."""
    return next((entry for entry in STREAMS if n_cols <= entry.block), STREAMS[-1])


def on_gpu_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Makes the tensor's GPU the current one: a kernel starts there, whichever its tensors are on.

    A model that is spread over GPUs has its head on another than the current one. Nothing on a CPU.
    """
    return torch.cuda.device_of(tensor)


@cache
def has_clusters(device: torch.device, triton_version: str) -> bool:
    """Whether programs of one row form a cluster: Triton >= 3.8 on data-centre Blackwell, not timed yet.

    On Hopper they can, but are slower: on an H100 with Triton 3.8 they reached 0.26 to 0.55 of the copy's
    bandwidth, two passes 0.7 and more.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    major, minor = (int(part) for part in triton_version.split(".")[:2])
    return (major, minor) >= (3, 8) and torch.cuda.get_device_capability(device)[0] == 10
