"""Compiles every kernel as calls launch it, with whichever Triton is installed, for a GPU that is not there.

    python -m tests.csrc_triton.any_triton --target sm_90

The scripts beside this one describe kernels to one Triton's compiler; here the launcher does it, as for a
user of any version. Nothing runs. A kernel that does not compile ends it with that error; of the others
it says how many bytes they spill: 0 with the pinned Triton.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import triton
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from csrc_triton import compact_kernels, gather_rows, gtw_cross_entropy, row_sums, vocab_parallel
from csrc_triton import launch as table
from csrc_triton.options import LossOptions
from csrc_triton.rows import Rows
from csrc_triton.vocab_pieces import N_STATISTICS, Piece
from tests.csrc_triton.offline_compile import TARGETS, inspect_cubin

N_ROWS, N_TASKS, IGNORE_INDEX = 4, 3, -100
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Each launch of the table, with edges and without; a piece of a vocabulary.
WIDTHS = sorted({launch.block for launch in (*table.RESIDENT, *table.ELEMENTWISE_RESIDENT)} | {131072})
PIECE = Piece(start=16384, size=16384, n_cols=32768)
OPTIONS = {"plain": {}, "scalar": {"z_loss": 1e-4}, "elementwise": {"label_smoothing": 0.1, "softcap": 30.0}}


class _Driver:
    """What a launcher asks of the driver before it compiles."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target


@contextmanager
def compiling(target: Any) -> Iterator[dict[str, Any]]:
    """Every launch compiles and does not run; gives the kernels by their names and constants."""
    kernels: dict[str, Any] = {}
    run = JITFunction.run

    def compile_alone(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        shapes = [f"{tuple(first.shape)} {first.dtype}" for first in arguments[:1]]
        constants = [f"{name}={value}" for name, value in options.items()]
        kernels[" ".join((self.fn.__name__, *shapes, *constants))] = kernel
        return kernel

    driver.set_active(_Driver(target))
    JITFunction.run = compile_alone
    try:
        yield kernels
    finally:
        JITFunction.run = run


def launch_losses(dtype: torch.dtype, widths: Sequence[int] = WIDTHS) -> None:
    """The loss of whole rows and of a piece, under each kind of options."""
    labels, weights, denominator = torch.zeros(N_ROWS, dtype=torch.int64), torch.ones(N_ROWS), torch.ones(())
    for width in (*widths, *(width + 1 for width in widths)):
        logits = torch.empty(N_ROWS, width, dtype=dtype)
        class_weights = torch.ones(width)
        for name, values in OPTIONS.items():
            options = LossOptions(**values, class_weights=None if name == "plain" else class_weights)
            for gradient in (logits, None):
                gtw_cross_entropy.gtw_cross_entropy_forward(
                    logits,
                    labels,
                    weights,
                    denominator,
                    options,
                    gradient=gradient,
                    want_correct=name != "plain",
                    ignore_index=IGNORE_INDEX,
                )
    logits = torch.empty(N_ROWS, PIECE.size, dtype=dtype)
    statistics = torch.empty(N_STATISTICS, N_ROWS)
    for name, values in OPTIONS.items():
        options = LossOptions(**values, class_weights=None if name == "plain" else torch.ones(PIECE.n_cols))
        asked = {"want_correct": name != "plain", "ignore_index": IGNORE_INDEX}
        vocab_parallel.piece_statistics(logits, labels, weights, weights, PIECE, options, **asked)
        vocab_parallel.piece_losses(
            logits, labels, statistics, weights, denominator, PIECE, options, gradient=logits, **asked
        )


def launch_rows() -> None:
    """What is done to rows beside their loss."""
    labels, values, one = torch.zeros(N_ROWS, dtype=torch.int64), torch.ones(N_ROWS), torch.ones(())
    correct = torch.zeros(N_ROWS, dtype=torch.bool)
    rows = Rows(labels, labels, torch.ones(N_TASKS), values, torch.ones(8), IGNORE_INDEX, 8, torch.float32)
    row_sums.weigh_rows(rows, one)
    row_sums.sum_rows(values, correct, values, rows, one, reads_unweighted=False)
    for capacity in (N_ROWS - 1, N_ROWS):
        compact_kernels.compact_to(
            correct, labels, values, capacity=capacity, count=capacity, ignore_index=IGNORE_INDEX
        )
    compact_kernels.put_rows(values, correct, labels)
    for width in (1024, 4096, 4097):
        matrix = torch.empty(N_ROWS, width, dtype=torch.bfloat16)
        gather_rows.gather_rows(matrix, labels, out=torch.empty_like(matrix))
        gtw_cross_entropy.scale_rows_(matrix, one, labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, default="sm_90", help="default: sm_90")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="default: all")
    parser.add_argument("--width", type=int, choices=WIDTHS, action="append", help="default: all")
    parser.add_argument("--spilling", action="store_true", help="only those that spill registers")
    options = parser.parse_args()
    gpu = TARGETS[options.target]
    # What torch tells of the GPU that is not there, and no tensor is on.
    for module in (gtw_cross_entropy, vocab_parallel):
        module.WARP_SIZE = gpu.warp_size
    gtw_cross_entropy.takes_long_steps = lambda *rows: (
        options.target == "sm_90" and all(each.element_size() == 2 for each in rows)
    )
    with compiling(gpu) as kernels:
        launch_rows()
        for dtype in options.dtype or DTYPES:
            launch_losses(DTYPES[dtype], options.width or WIDTHS)
    for name, kernel in kernels.items():
        cubin = kernel.asm.get("cubin")
        spilled = None if cubin is None else inspect_cubin(cubin)["spill_bytes"]
        if spilled or not options.spilling:
            print(json.dumps({"kernel": name, "spill_bytes": spilled}))
    print(f"triton {triton.__version__}, {options.target}: {len(kernels)} launches compiled", file=sys.stderr)


if __name__ == "__main__":
    main()
