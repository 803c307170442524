"""Compiles the loss kernel for GPUs that are not there.

    python -m tests.csrc_triton.offline_compile --table

Prints what the machine code of every entry of the launch table does, as JSON lines or as a table. Under the
interpreter a kernel is no kernel to the compiler, so this runs in a process of its own.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from csrc_triton import gtw_cross_entropy as kernels
from csrc_triton import launch as table
from csrc_triton.launch import Launch
from tests.csrc_triton.barriers import unordered_stores

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Of the logits and of their gradient; the linear level has float32 logits and a gradient for 16-bit products.
DTYPES = {
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "fp32": ("fp32", "fp32"),
    "fp32-bf16": ("fp32", "bf16"),
}
POINTERS = {
    "logits_ptr": "*{logits}",
    "logits_stride_row": "i64",
    "gradient_ptr": "*{gradient}",
    "gradient_stride_row": "i64",
    "losses_ptr": "*fp32",
    "correct_ptr": "*i8",
    "labels_ptr": "*i64",
    "weights_ptr": "*fp32",
    "denominator_ptr": "*fp32",
    "class_weights_ptr": "*fp32",
    "n_rows": "i32",
    "n_cols": "i32",
}
SCALARS = {"ignore_index": "i32", "label_smoothing": "fp32", "z_loss": "fp32", "softcap": "fp32"}
PLAIN = ("HAS_DENOMINATOR", "HAS_GRADIENT")
SCALAR_OPTIONS = (*PLAIN, "HAS_CORRECT", "HAS_Z_LOSS", "HAS_CLASS_WEIGHTS", "READS_UNWEIGHTED")
ALL = (*SCALAR_OPTIONS, "HAS_SMOOTHING", "HAS_SOFTCAP")
# What may be on: everything that the entry is chosen for, and little of it.
OPTIONS = {
    "plain": PLAIN,
    "counted": (*PLAIN, "HAS_CORRECT"),
    "no gradient": ("HAS_CORRECT",),
    "scalar options": SCALAR_OPTIONS,
    "smoothing": (*PLAIN, "HAS_CORRECT", "HAS_SMOOTHING"),
    "softcap": (*PLAIN, "HAS_CORRECT", "HAS_SOFTCAP"),
    "all": ALL,
}
GRADIENT_OPTIONS, LOSS_OPTIONS = ("plain", "counted", "scalar options"), ("no gradient",)
ROW_OPTIONS = GRADIENT_OPTIONS + LOSS_OPTIONS
ELEMENTWISE_OPTIONS = ("smoothing", "softcap", "all")


@dataclass(frozen=True)
class Entry:
    """A kernel to compile: a launch, a set of `OPTIONS`, and whether rows have edges."""

    launch: Launch
    options: str
    has_edges: bool

    @property
    def name(self) -> str:
        launch = self.launch
        reads = f"2 reads by {launch.step}" if launch.step else "1 read"
        stages = f", {launch.stages} stages" if launch.stages > 1 else ""
        return f"{launch.block}, {reads}{stages}"

    def source(self, dtype: str, warp_size: int) -> ASTSource:
        logits, gradient = DTYPES[dtype]
        kinds = (POINTERS | SCALARS).items()
        signature = {name: kind.format(logits=logits, gradient=gradient) for name, kind in kinds}
        constants: dict[str, bool | int] = {name: name in OPTIONS[self.options] for name in ALL}
        itemsize = 4 if logits == "fp32" else 2
        has_scales = self.launch.has_scales(itemsize, is_plain=self.options in ("plain", "counted"))
        constants |= {
            "HAS_EDGES": self.has_edges,
            "BLOCK": self.launch.block,
            "STEP": self.launch.step,
            "STAGES": self.launch.stages,
            "WORD": table.WORD,
            "HAS_SCALES": has_scales,
            "N_LANES": self.launch.lanes(itemsize, warp_size, has_scales=has_scales),
        }
        # What the launcher sees of contiguous tensors; with edges neither strides nor columns are multiples.
        uneven = {"logits_stride_row", "gradient_stride_row", "n_cols"} if self.has_edges else set()
        aligned = {
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(POINTERS)
            if name not in uneven | {"n_rows"}
        }
        kernel = kernels._gtw_cross_entropy_fwd_kernel
        return ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants, aligned)


def entries(target: str, dtype: str) -> Iterator[Entry]:
    """Every launch of the table with every set of options that it is chosen for on a target."""
    both = (False, True)
    kinds = (
        (table.RESIDENT, ROW_OPTIONS, both),
        ((table.WIDE_TWO_PASSES if dtype == "fp32" else table.TWO_PASSES,), GRADIENT_OPTIONS, (False,)),
        ((table.EDGES_TWO_PASSES,), GRADIENT_OPTIONS, (True,)),
        ((table.LONG_STEPS,) if has_long_steps(target, dtype) else (), GRADIENT_OPTIONS, (False,)),
        ((table.LOSS_ALONE,), LOSS_OPTIONS, both),
        ((*table.ELEMENTWISE_RESIDENT, table.ELEMENTWISE_TWO_PASSES), ELEMENTWISE_OPTIONS, both),
    )
    for launches, options, edges in kinds:
        for launch, name, has_edges in product(launches, options, edges):
            yield Entry(launch, name, has_edges)


def pipelines(dtype: str, stages: int) -> Iterator[Entry]:
    """Hopper's launches as pipelines, of rows of 16 bits and of the linear level's two passes.

    `benchmarks.launches` times them.
    """
    if dtype == "fp32-bf16":
        for launch, has_edges in ((table.TWO_PASSES, False), (table.EDGES_TWO_PASSES, True)):
            yield Entry(replace(launch, stages=stages), "counted", has_edges)
        return
    for has_edges in (False, True):
        yield Entry(replace(table.RESIDENT[-1], stages=stages), "plain", has_edges)
    for options in ("plain", "counted"):
        yield Entry(replace(table.LONG_STEPS, stages=stages), options, False)


def has_long_steps(target: str, dtype: str) -> bool:
    return target == "sm_90" and dtype in ("bf16", "fp16")


def inspect_cubin(cubin: bytes, *, counts_unordered: bool = False) -> dict[str, int | bool]:
    """Instructions, registers, bytes spilled, whether 128 bits move at a time, loads ahead.

    With `counts_unordered` also `unordered_stores`, and how many there would be without barriers.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        machine_code = _output("nvdisasm", file.name)
    unordered = {}
    if counts_unordered:
        unordered["unordered_stores"] = unordered_stores(machine_code)
        without_barriers = re.sub(r".*\bBAR\..*\n", "", machine_code)
        unordered["stores_behind_barriers"] = unordered_stores(without_barriers)
    return unordered | {
        "instructions": len(re.findall(r"^ +/\*[0-9a-f]{4,}\*/ +(?!NOP)\S", machine_code, re.MULTILINE)),
        "registers": int(re.findall(r"REG:(\d+)", usage)[0]),
        "spill_bytes": int(re.findall(r"STACK:(\d+)", usage)[0]),
        "wide_loads": bool(re.search(r"LDG(STS)?\.E\S*\.128", machine_code)),
        "wide_stores": bool(re.search(r"STG\.E\S*\.128", machine_code)),
        "loads_ahead": loads_ahead(machine_code),
    }


def loads_ahead(machine_code: str) -> int:
    """Of the places that load 128 bits, how many loads the least starts before it computes with one."""
    operations = re.findall(r"^ +/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\d+ +)?(\S+)", machine_code, re.MULTILINE)
    runs = [0]
    for operation in operations:
        if operation.startswith("LDG") and "128" in operation:
            runs[-1] += 1
        elif runs[-1] and operation.startswith(("F", "MUFU", "BAR")):
            runs.append(0)
    return min(filter(None, runs), default=0)


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def inspect(entry: Entry, target: str, dtype: str, *, counts_unordered: bool = False) -> dict[str, object]:
    """What the machine code of an entry does; for AMD that it compiles."""
    gpu = TARGETS[target]
    launch = entry.launch
    options = table.compile_options(launch.warps(gpu.warp_size), launch.registers, gpu.warp_size)
    compiled = triton.compile(entry.source(dtype, gpu.warp_size), gpu, options)
    line: dict[str, object] = {
        "target": target,
        "dtype": dtype,
        "entry": entry.name,
        "options": entry.options,
        "edges": entry.has_edges,
        "triton": triton.__version__,
        "threads": compiled.metadata.num_warps * gpu.warp_size,
        "shared_bytes": compiled.metadata.shared,
    }
    if "cubin" in compiled.asm:
        line |= inspect_cubin(compiled.asm["cubin"], counts_unordered=counts_unordered)
    return line


def asked() -> dict[str, GPUTarget]:
    """The targets that a command line names which names nothing else; all where it names none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    return {name: TARGETS[name] for name in parser.parse_args().target or TARGETS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="a table in place of JSON lines")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="default: all")
    parser.add_argument("--options", choices=OPTIONS, action="append", help="default: all")
    parser.add_argument("--step", type=int, default=0, help="only launches of steps as long (default: all)")
    parser.add_argument("--block", type=int, default=0, help="only launches of blocks as long (default: all)")
    parser.add_argument("--stages", type=int, help="pipelines of as many stages in place of the table")
    parser.add_argument(
        "--unordered", action="store_true", help="count what no barrier keeps behind the reads"
    )
    arguments = parser.parse_args()
    for target in arguments.target or TARGETS:
        for dtype in arguments.dtype or DTYPES:
            for entry in pipelines(dtype, arguments.stages) if arguments.stages else entries(target, dtype):
                long = entry.launch.step >= arguments.step and entry.launch.block >= arguments.block
                if long and entry.options in (arguments.options or OPTIONS):
                    line = inspect(entry, target, dtype, counts_unordered=arguments.unordered)
                    text = " ".join(f"{value!s:>{len(key)}}" for key, value in line.items())
                    print(text if arguments.table else json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
