"""Compiles the kernels over rows and the one that scales, for GPUs that are not there; in its own process."""

import json
from collections.abc import Iterator

import triton
from triton.compiler import ASTSource

from csrc_triton import gtw_cross_entropy as loss_kernels
from csrc_triton import row_sums
from csrc_triton.launch import STREAMS, compile_options
from tests.csrc_triton.offline_compile import asked, inspect_cubin

POINTERS = {
    "labels_ptr": "*i64",
    "task_ids_ptr": "*i64",
    "is_right_ptr": "*i8",
    "correct_ptr": "*i8",
    "token_count_ptr": "*i64",
    "correct_count_ptr": "*i64",
    "gradient_ptr": "*bf16",
}
SCALARS = {"most": "fp32"}
# Rows of a gradient start at whole words and hold whole ones.
ALIGNED = ("gradient_stride_row", "n_cols")
KERNELS = {
    "weigh_rows": (row_sums._weigh_rows_kernel, row_sums._BLOCK, row_sums._WARPS),
    "sum_rows": (row_sums._sum_rows_kernel, row_sums._SUM_BLOCK, row_sums._SUM_WARPS),
    "scale_rows": (loss_kernels._scale_rows_kernel, STREAMS[-1].block, STREAMS[-1].num_warps),
}


def sources(kernel: triton.JITFunction, block: int) -> Iterator[ASTSource]:
    """With every flag on and off; a single row or task is a constant to the compiler."""
    names = kernel.arg_names
    flags = [name for name in names if name.isupper() and name != "BLOCK"]
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or name in ALIGNED
    }
    for is_on in (True, False) if flags else (True,):
        # A constant is looked at with everything on, where the kernel is largest.
        singles = [name for name in ("n_rows", "n_tasks") if name in names and is_on]
        for single in (None, *singles):
            constants: dict[str, int] = dict.fromkeys(flags, is_on) | {"BLOCK": block}
            if single is not None:
                constants[single] = 1
            signature = {
                name: POINTERS.get(name, "*fp32") if name.endswith("_ptr") else SCALARS.get(name, "i32")
                for name in names
            }
            yield ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants, aligned)


if __name__ == "__main__":
    for target, gpu in asked().items():
        for name, (kernel, block, num_warps) in KERNELS.items():
            for source in sources(kernel, block):
                compiled = triton.compile(source, gpu, compile_options(num_warps))
                line: dict[str, object] = {"target": target, "kernel": name}
                if "cubin" in compiled.asm:
                    line |= inspect_cubin(compiled.asm["cubin"])
                print(json.dumps(line), flush=True)
