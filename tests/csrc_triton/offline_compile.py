"""Compiles the kernels for GPUs that are not there and prints one line each; run in a process of its own.

Under the interpreter a kernel is no kernel to the compiler, so this must not share the tests' process.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from csrc_triton import gtw_cross_entropy as kernels
from csrc_triton.launch import ROW_LAUNCHES, Launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
FLAGS = ("HAS_DENOMINATOR", "HAS_GRADIENT", "HAS_CORRECT")
OPTIONS = ("HAS_SMOOTHING", "HAS_Z_LOSS", "HAS_SOFTCAP", "HAS_CLASS_WEIGHTS", "READS_UNWEIGHTED", "ONE_READ")


def source(dtype: str, launch: Launch) -> ASTSource:
    pointers = {
        "logits_ptr": f"*{dtype}",
        "logits_stride_row": "i64",
        "gradient_ptr": f"*{dtype}",
        "gradient_stride_row": "i64",
        "losses_ptr": "*fp32",
        "correct_ptr": "*i8",
        "labels_ptr": "*i64",
        "weights_ptr": "*fp32",
        "denominator_ptr": "*fp32",
        "class_weights_ptr": "*fp32",
        "n_cols": "i32",
        "ignore_index": "i32",
        "label_smoothing": "fp32",
        "z_loss": "fp32",
        "softcap": "fp32",
    }
    constants = dict.fromkeys(FLAGS, True) | dict.fromkeys(OPTIONS, False) | {"BLOCK": launch.block}
    # What the launcher sees of contiguous tensors; without it loads are not vectorised.
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(11)}
    signature = pointers | dict.fromkeys(constants, "constexpr")
    return ASTSource(kernels._gtw_cross_entropy_fwd_kernel, signature, constants, aligned)


def inspect_cubin(cubin: bytes) -> dict[str, int | bool]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, machine_code = (
            subprocess.run(
                [TOOLS / tool, *flags, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, flags in (("cuobjdump", ["--dump-resource-usage"]), ("nvdisasm", []))
        )
    return {
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spill_bytes": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "wide_loads": bool(re.search(r"LDG\.E\S*\.128", machine_code)),
        "wide_stores": bool(re.search(r"STG\.E\S*\.128", machine_code)),
    }


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for name, target in TARGETS.items():
        for dtype in ("bf16", "fp16", "fp32"):
            for launch in ROW_LAUNCHES:
                compiled = triton.compile(source(dtype, launch), target, {"num_warps": launch.num_warps})
                line: dict[str, object] = {"target": name, "dtype": dtype, "block": launch.block}
                if "cubin" in compiled.asm:
                    line |= inspect_cubin(compiled.asm["cubin"])
                print(json.dumps(line), flush=True)
