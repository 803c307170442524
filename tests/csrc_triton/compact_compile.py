"""Compiles the kernels that compact rows for GPUs that are not there; a process of its own."""

import json
from collections.abc import Iterator

import triton
from triton.compiler import ASTSource

from csrc_triton import compact_kernels as kernels
from csrc_triton.launch import compile_options
from tests.csrc_triton.offline_compile import asked, inspect_cubin

POINTERS = {
    "compact_weights_ptr": "*fp32",
    "weights_ptr": "*fp32",
    "losses_ptr": "*fp32",
    "row_losses_ptr": "*fp32",
    "fits_ptr": "*i8",
    "read_ptr": "*i8",
    "correct_ptr": "*i8",
    "row_correct_ptr": "*i8",
}
FLAGS = ("HAS_READ", "KEEPS_PLACES")


def sources() -> Iterator[tuple[str, ASTSource]]:
    for is_on in (False, True):
        constants = dict.fromkeys(FLAGS, is_on) | {"BLOCK": kernels.BLOCK, "STEP": kernels.STEP}
        yield "compact_rows", source(kernels._compact_rows_kernel, constants)
    yield "put_rows", source(kernels._put_rows_kernel, {"BLOCK": kernels.BLOCK})


def source(kernel: triton.JITFunction, constants: dict[str, int]) -> ASTSource:
    names = kernel.arg_names
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")
    }
    signature = {name: POINTERS.get(name, "*i64") if name.endswith("_ptr") else "i32" for name in names}
    return ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants, aligned)


if __name__ == "__main__":
    for target, gpu in asked().items():
        for name, each in sources():
            compiled = triton.compile(each, gpu, compile_options(kernels.NUM_WARPS))
            line: dict[str, object] = {"target": target, "kernel": name}
            if "cubin" in compiled.asm:
                line |= inspect_cubin(compiled.asm["cubin"])
            print(json.dumps(line), flush=True)
