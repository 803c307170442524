"""A row that is written over itself has been read by every thread: the kernel's machine code says so."""

from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.csrc_triton.barriers import unordered_stores
from tests.csrc_triton.compiled import assert_read_before_written, compiled

# Read, wait, write; a row that is not read, at 3, becomes zeros.
KERNEL = """
        /*0000*/                   LDG.E R0, desc[UR4][R2.64] ;
        /*0010*/              @!P0 BRA `(.L_x_3) ;
        /*0020*/               @P1 LDG.E.128 R8, desc[UR4][R4.64] ;
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/                   BSSY B0, `(.L_x_2) ;
        /*0050*/               @P2 BRA `(.L_x_1) ;
        /*0060*/                   LDG.E.U16 R7, desc[UR4][R4.64] ;
        /*0070*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_1:
        /*0080*/                   BSYNC B0 ;
.L_x_2:
        /*0090*/               @P1 STG.E.128 desc[UR4][R4.64], R8 ;
        /*00a0*/                   LDG.E.128 R8, desc[UR4][R4.64+0x800] ;
        /*00b0*/               @P1 STG.E.128 desc[UR4][R4.64+0x800], R8 ;
        /*00c0*/               @P3 BRA `(.L_x_2) ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   STG.E.128 desc[UR4][R4.64], RZ ;
        /*00f0*/                   EXIT ;
.L_x_4:
        /*0100*/                   BRA `(.L_x_4) ;
"""


def without(*addresses: str) -> str:
    return "\n".join(
        line for line in KERNEL.splitlines() if not any(f"/*{each}*/" in line for each in addresses)
    )


@pytest.mark.parametrize(
    ("machine_code", "expected"),
    [
        (KERNEL, 0),
        # What is read again has its own barrier, and the one before it does for what is read before.
        (without("0030"), 2),
        (without("0070"), 2),
        (without("0030", "0070"), 2),
        # Zeros in place of a row that was read.
        (without("0070").replace("R4.64], R8", "R4.64], RZ"), 2),
        (KERNEL.replace("R4.64], RZ", "R4.64], R9"), 1),
        # A branch whose threads go on elsewhere than behind their BSYNC.
        (
            without("0070").replace(
                "B0 ;\n.L_x_2:", "B0 ;\n        /*0084*/                   EXIT ;\n.L_x_2:"
            ),
            2,
        ),
    ],
)
def test_stores_before_a_barrier_are_counted(machine_code: str, expected: int) -> None:
    assert unordered_stores(machine_code) == expected


def test_a_routine_is_passed_over() -> None:
    call = "        /*0008*/                   CALL.REL.NOINC `($routine) ;\n        /*0010*/"
    routine = """        /*0100*/                   REDUX.MAX.S32 UR6, R28 ;
        /*0110*/                   RET.REL.NODEC R2 `(kernel) ;
"""
    called = KERNEL.replace("        /*0010*/", call) + routine
    assert unordered_stores(called) == 0
    assert unordered_stores(called.replace("BAR.SYNC", "NOP")) == 2
    with pytest.raises(ValueError, match="expected routines that only compute"):
        unordered_stores(called.replace("REDUX.MAX.S32 UR6, R28", "BAR.SYNC 0x0"))


def test_a_branch_to_a_register_is_refused() -> None:
    with pytest.raises(ValueError, match="expected branches to labels alone, got BRX"):
        unordered_stores(KERNEL.replace("BRA `(.L_x_4)", "BRX R2"))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_every_thread_has_read_a_row_before_it_is_written(tmp_path: Path, target: str) -> None:
    """Where logits and gradient have one dtype; `test_compile` asks this of one on every run."""
    dtypes, options = ("bf16", "fp16", "fp32"), ("plain", "counted", "smoothing", "softcap")
    arguments = (
        ["--unordered"] + [f"--dtype={each}" for each in dtypes] + [f"--options={each}" for each in options]
    )
    for line in compiled("offline_compile", tmp_path, f"--target={target}", *arguments):
        assert_read_before_written(line)
