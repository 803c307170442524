"""Compiles the gathering kernel for GPUs that are not there; a process of its own, as `offline_compile`."""

import json

import triton
from triton.compiler import ASTSource

from csrc_triton import gather_rows as kernels
from csrc_triton.launch import compile_options
from tests.csrc_triton.offline_compile import asked, inspect_cubin


def source(dtype: str) -> ASTSource:
    signature = {
        "source_ptr": f"*{dtype}",
        "source_stride_row": "i64",
        "index_ptr": "*i64",
        "out_ptr": f"*{dtype}",
        "out_stride_row": "i64",
        "n_source": "i32",
        "start": "i32",
        "n_cols": "i32",
        "BLOCK": "constexpr",
    }
    # Widths that are a multiple of 16, as every model's is: without it accesses are not vectorised.
    aligned = {(index,): [["tt.divisibility", 16]] for index in (0, 1, 2, 3, 4, 7)}
    return ASTSource(kernels._gather_rows_kernel, signature, {"BLOCK": kernels.BLOCK}, aligned)


if __name__ == "__main__":
    for name, target in asked().items():
        for dtype in ("bf16", "fp16", "fp32", "fp64"):
            compiled = triton.compile(source(dtype), target, compile_options(kernels.NUM_WARPS))
            line: dict[str, object] = {"target": name, "dtype": dtype}
            if "cubin" in compiled.asm:
                line |= inspect_cubin(compiled.asm["cubin"])
            print(json.dumps(line), flush=True)
