"""Compiles the kernels of a piece of the vocabulary for GPUs that are not there; a process of its own."""

import json

import triton
from triton.compiler import ASTSource

from csrc_triton import vocab_parallel_kernels as kernels
from csrc_triton.launch import WORD, Launch, compile_options
from csrc_triton.vocab_parallel import PLAIN, WITH_OPTIONS
from tests.csrc_triton.offline_compile import asked, inspect_cubin

POINTERS = {"correct_ptr": "*i8", "labels_ptr": "*i64"} | dict.fromkeys(
    (
        "statistics_ptr",
        "label_x_ptr",
        "losses_ptr",
        "weights_ptr",
        "denominator_ptr",
        "class_weights_ptr",
        "mass_ptr",
    ),
    "*fp32",
)
NUMBERS = {"logits_stride_row": "i64", "gradient_stride_row": "i64"} | dict.fromkeys(
    ("label_smoothing", "z_loss", "softcap"), "fp32"
)
# Pieces of a multiple of 16 columns; without it loads are not vectorised.
ALIGNED = ("logits_stride_row", "gradient_stride_row", "n_cols", "start")


ITEMSIZE = {"bf16": 2, "fp32": 4}


def source(
    kernel: triton.JITFunction, dtype: str, launch: Launch, has_options: bool, warp_size: int
) -> ASTSource:
    names = kernel.arg_names
    constants = {name: name in ("HAS_DENOMINATOR", "HAS_GRADIENT") or has_options for name in names}
    constants = {name: value for name, value in constants.items() if name.isupper()}
    lanes = launch.lanes(ITEMSIZE[dtype], warp_size, has_scales=False)
    constants |= {"BLOCK": launch.block, "WORD": WORD, "N_LANES": lanes}
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {}
    for name in names:
        other = f"*{dtype}" if name.endswith("_ptr") else "i32"
        signature[name] = "constexpr" if name in constants else (POINTERS | NUMBERS).get(name, other)
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or name in ALIGNED
    }
    return ASTSource(kernel, signature, constants, aligned)


if __name__ == "__main__":
    for name, target in asked().items():
        for dtype in ITEMSIZE:
            for has_options, launch in ((False, PLAIN), (True, WITH_OPTIONS)):
                for kernel in (kernels.piece_statistics_fwd_kernel, kernels.piece_losses_fwd_kernel):
                    options = compile_options(launch.num_warps)
                    code = source(kernel, dtype, launch, has_options, target.warp_size)
                    compiled = triton.compile(code, target, options)
                    line: dict[str, object] = {"target": name, "kernel": kernel.__name__, "dtype": dtype}
                    if "cubin" in compiled.asm:
                        line |= inspect_cubin(compiled.asm["cubin"])
                    print(json.dumps(line), flush=True)
