"""Compiles the candidate kernel of packed rows for GPUs that are not there; a process of its own."""

import json

import triton
from triton.compiler import ASTSource

from benchmarks import packed_rows
from csrc_triton.launch import WORD, compile_options
from tests.csrc_triton.offline_compile import asked, inspect_cubin

KINDS = {
    "logits_ptr": "*bf16",
    "logits_stride_row": "i64",
    "gradient_ptr": "*bf16",
    "gradient_stride_row": "i64",
    "losses_ptr": "*fp32",
    "labels_ptr": "*i64",
    "weights_ptr": "*fp32",
    "denominator_ptr": "*fp32",
    "n_cols": "i32",
}


def source(*, has_edges: bool) -> ASTSource:
    block, lanes = packed_rows.LAUNCH.block, packed_rows.LANES
    constants = {"HAS_EDGES": has_edges, "BLOCK": block, "LANES": lanes, "WORD": WORD}
    # With edges neither strides nor columns are multiples.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(KINDS)
        if name.endswith("_ptr") or not has_edges
    }
    signature = KINDS | dict.fromkeys(constants, "constexpr")
    return ASTSource(packed_rows._packed_rows_kernel, signature, constants, aligned)


if __name__ == "__main__":
    launch = packed_rows.LAUNCH
    for name, target in asked().items():
        for has_edges in (False, True):
            options = compile_options(launch.num_warps, launch.registers)
            compiled = triton.compile(source(has_edges=has_edges), target, options)
            line = {"target": name, "edges": has_edges} | inspect_cubin(compiled.asm["cubin"])
            print(json.dumps(line), flush=True)
