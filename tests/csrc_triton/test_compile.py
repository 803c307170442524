"""Every launch compiles for every architecture, spills nothing and moves 128 bits at a time."""

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")

from csrc_triton import gtw_cross_entropy
from csrc_triton import launch as table
from csrc_triton.options import LossOptions
from tests.csrc_triton.compiled import assert_read_before_written, compiled
from tests.csrc_triton.offline_compile import GRADIENT_OPTIONS, has_long_steps

# fp16 moves as bf16 does, and fp32 takes the most registers: the long matrix has all four for each.
NVIDIA = {"sm_80": {"bf16"}, "sm_90": {"fp32-bf16"}, "sm_100": {"bf16"}}
# The most that an entry for rows may be asked for, and one for elements; the long matrix compiles the others,
# Blackwell's too.
MOST = ("scalar options", "all")
EVERY = ("plain", "counted", "no gradient", "scalar options", "smoothing", "softcap", "all")
# Hundreds of compilations: on two cores that have other tests to run, beyond the ten minutes of a test.
LONG = 3600
# Each with edges and without, for each dtype.
N_ROW_ENTRIES, N_ELEMENTWISE_ENTRIES = 7, 4


def select(target: str, options: tuple[str, ...]) -> tuple[set[str], list[str]]:
    """The dtypes and the arguments that select them and the options."""
    dtypes = {"bf16", "fp32-bf16", "fp16", "fp32"} if options == EVERY else NVIDIA[target]
    chosen = [f"--dtype={dtype}" for dtype in sorted(dtypes)] + [f"--options={name}" for name in options]
    return dtypes, chosen


def assert_wide_without_spills(line: dict[str, Any]) -> None:
    assert line["spill_bytes"] == 0, line
    assert line["wide_loads"], line
    assert line["wide_stores"] or line["options"] == "no gradient", line


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("sm_80", MOST[:1]),
        ("sm_90", MOST),
        *(pytest.param(each, EVERY, marks=[pytest.mark.full, pytest.mark.timeout(LONG)]) for each in NVIDIA),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_every_launch_compiles_without_spills(tmp_path: Path, target: str, options: tuple[str, ...]) -> None:
    dtypes, arguments = select(target, options)
    lines = compiled("offline_compile", tmp_path, "--target", target, *arguments)
    assert {line["dtype"] for line in lines} == dtypes
    # Each set of options belongs to the entries of one kind.
    entries = {name: N_ROW_ENTRIES if name in EVERY[:4] else N_ELEMENTWISE_ENTRIES for name in options}
    long_steps = [
        (dtype, name)
        for dtype in dtypes
        for name in options
        if has_long_steps(target, dtype) and name in GRADIENT_OPTIONS
    ]
    assert len(lines) == sum(entries.values()) * 2 * len(dtypes) + len(long_steps)
    for line in lines:
        assert_wide_without_spills(line)


def test_long_steps_compile_without_spills(tmp_path: Path) -> None:
    arguments = ("--target=sm_90", "--dtype=bf16", f"--step={table.LONG_STEPS.step}")
    lines = compiled("offline_compile", tmp_path, *arguments)
    assert [line["options"] for line in lines] == [*GRADIENT_OPTIONS]
    for line in lines:
        assert_wide_without_spills(line)


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp16", marks=pytest.mark.full)])
def test_pipelines_of_rows_and_steps_compile_without_spills(tmp_path: Path, dtype: str) -> None:
    """Two rows or steps on their way while one is computed: what `benchmarks.launches` times."""
    lines = compiled("offline_compile", tmp_path, "--target=sm_90", f"--dtype={dtype}", "--stages=3")
    assert [line["entry"] for line in lines] == ["32768, 1 read, 3 stages"] * 2 + [
        "32768, 2 reads by 32768, 3 stages"
    ] * 2
    for line in lines:
        assert_wide_without_spills(line)
        # They are under way in shared memory, of which Hopper has 227 KiB for a program.
        assert 2 * 32768 * 2 <= line["shared_bytes"] <= 227 * 1024


def test_pipelines_of_the_linear_level_compile_without_spills(tmp_path: Path) -> None:
    lines = compiled("offline_compile", tmp_path, "--target=sm_90", "--dtype=fp32-bf16", "--stages=3")
    assert [line["edges"] for line in lines] == [False, True]
    for line in lines:
        assert_wide_without_spills(line)
        assert 2 * 16384 * 4 <= line["shared_bytes"] <= 227 * 1024


@pytest.mark.parametrize("target", ["sm_90", pytest.param("sm_80", marks=pytest.mark.full)])
def test_packed_rows_leave_room_for_a_second_program(tmp_path: Path, target: str) -> None:
    """Another kernel that `benchmarks.launches` times: one row computes while another is on its way."""
    lines = compiled("packed_compile", tmp_path, f"--target={target}")
    assert [line["edges"] for line in lines] == [False, True]
    for line in lines:
        assert line["spill_bytes"] == 0, line
        assert line["wide_loads"], line
        assert line["wide_stores"], line
        # Twice 16 warps of 64 registers are the 65536 of a multiprocessor.
        assert line["registers"] <= 64


@pytest.mark.parametrize("block", [16384, pytest.param(0, marks=pytest.mark.full)])
def test_rows_of_16_bits_start_all_loads_before_they_compute(tmp_path: Path, block: int) -> None:
    """And compute little: with one program to a multiprocessor each instruction delays the row's gradient."""
    arguments = ("--target=sm_90", "--dtype=bf16", "--options=counted", "--unordered", f"--block={block}")
    lines = compiled("offline_compile", tmp_path, *arguments)
    for line in lines:
        assert_wide_without_spills(line)
        assert_read_before_written(line)
    (row,) = (line for line in lines if line["entry"] == "32768, 1 read" and not line["edges"])
    (long,) = (line for line in lines if line["entry"].endswith(f"by {table.LONG_STEPS.step}"))
    # A thread's 32 columns of a block, 8 to a load.
    assert row["loads_ahead"] == long["loads_ahead"] == 4
    assert row["instructions"] <= 24 * 32
    # Its steps are read, and read again.
    assert long["instructions"] <= 46 * 32


def test_long_steps_are_for_rows_of_16_bits_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_is_hopper", table._is_hopper.__wrapped__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(9, 0), (10, 0)][device.index])
    with FakeTensorMode():
        rows = {
            (device, dtype): torch.empty(2, 16, dtype=dtype, device=device)
            for device in ("cpu", "cuda:0", "cuda:1")
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
        }
    found = [key for key, each in rows.items() if table.takes_long_steps(each, each)]
    assert found == [("cuda:0", torch.bfloat16), ("cuda:0", torch.float16)]
    # The linear level's: float32 logits, and a gradient of 16 bits.
    assert not table.takes_long_steps(rows["cuda:0", torch.float32], rows["cuda:0", torch.bfloat16])
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not table.takes_long_steps(rows["cuda:0", torch.bfloat16])


@pytest.mark.full
@pytest.mark.timeout(LONG)
def test_every_call_compiles_without_spills(tmp_path: Path) -> None:
    """As `make test-torch` does for other versions: what it counts there must be 0 here."""
    lines = compiled("any_triton", tmp_path, "--target=sm_90")
    assert [line["kernel"] for line in lines if line["spill_bytes"]] == []
    assert {line["kernel"].split()[0] for line in lines} == kernels_of_the_package()


def kernels_of_the_package() -> set[str]:
    sources = Path(table.__file__).parent.glob("*.py")
    return {name for path in sources for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.M)}


def test_no_kernel_chains_conditions() -> None:
    """Triton 3.0 and 3.1, of torch 2.4 and 2.5, refuse `a or b or c`, which a newer one compiles."""
    kernels = 0
    for path in Path(table.__file__).parent.glob("*.py"):
        for function in ast.parse(path.read_text()).body:
            if "triton.jit" in " ".join(map(ast.unparse, getattr(function, "decorator_list", []))):
                kernels += 1
                chains = [
                    each for each in ast.walk(function) if isinstance(each, ast.BoolOp) and each.values[2:]
                ]
                assert not chains, f"{path.name}: {ast.unparse(chains[0])}"
    assert kernels


@pytest.mark.parametrize(
    "widths", [(8192, 131072), pytest.param((), marks=pytest.mark.full)], ids=["some", "every"]
)
def test_every_call_compiles_for_amd(tmp_path: Path, widths: tuple[int, ...]) -> None:
    """By the launcher, which refuses options that a GPU's compiler does not know."""
    chosen = [f"--width={width}" for width in widths]
    lines = compiled("any_triton", tmp_path, "--target=gfx942", "--dtype=bf16", *chosen)
    assert {line["kernel"].split()[0] for line in lines} == kernels_of_the_package()
    # The most that a program may have; AMD's warps are of 64.
    assert max(int(re.findall(r"num_warps=(\d+)", line["kernel"])[0]) for line in lines) == 1024 // 64


@pytest.mark.parametrize(("warp_size", "num_warps"), [(32, 32), (64, 16)])
def test_programs_have_at_most_1024_threads(
    warp_size: int, num_warps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: dict[str, Any] = {}
    # `kernel[grid](...)`.
    stand_in = defaultdict(lambda: lambda *_, **options: launched.update(options))
    monkeypatch.setattr(gtw_cross_entropy, "_gtw_cross_entropy_fwd_kernel", stand_in)
    monkeypatch.setattr(gtw_cross_entropy, "WARP_SIZE", warp_size)
    gtw_cross_entropy.gtw_cross_entropy_forward(
        torch.empty(1, 32768),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1),
        None,
        LossOptions(),
        gradient=None,
        want_correct=False,
        ignore_index=-100,
    )
    assert launched == launched | table.compile_options(num_warps)


def test_every_launch_says_how_it_is_compiled() -> None:
    sources = "".join(path.read_text() for path in Path(table.__file__).parent.glob("*.py"))
    launches = re.findall(r"_kernel\[.*?\]\(\n.*?\n +\)\n", sources, re.S)
    assert len(launches) == sources.count("_kernel[")
    assert [launch for launch in launches if "**compile_options(" not in launch] == []


@pytest.mark.parametrize(
    ("n_cols", "differs", "expected"),
    [
        (32768, {}, table.RESIDENT[-1]),
        (32768, {"has_gradient": False}, table.RESIDENT[-1]),
        (32767, {"is_aligned": False}, table.RESIDENT[-1]),
        (32769, {"is_aligned": False}, table.EDGES_TWO_PASSES),
        (32768 + 16, {}, table.TWO_PASSES),
        (32768 + 16, {"takes_long_steps": True}, table.LONG_STEPS),
        (32768 + 16, {"takes_long_steps": True, "has_gradient": False}, table.LOSS_ALONE),
        (32768 + 16, {"takes_long_steps": True, "is_aligned": False}, table.EDGES_TWO_PASSES),
        (32768 + 16, {"has_gradient": False}, table.LOSS_ALONE),
        (8192, {"is_elementwise": True}, table.ELEMENTWISE_RESIDENT[-1]),
        (8192 + 16, {"is_elementwise": True, "has_gradient": False}, table.ELEMENTWISE_TWO_PASSES),
    ],
)
def test_a_row_takes_the_smallest_launch_that_holds_it(
    n_cols: int, differs: dict[str, bool], expected: table.Launch
) -> None:
    row = {"is_aligned": True, "is_elementwise": False, "has_gradient": True}
    assert table.row_launch(n_cols, **(row | differs)) is expected
