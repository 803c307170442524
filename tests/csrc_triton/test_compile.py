"""Every launch compiles for every architecture, spills nothing and moves 128 bits at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_every_launch_compiles_without_spills(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.csrc_triton.offline_compile"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["target"] for line in lines} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert len(lines) == 4 * 3 * 3
    for line in lines:
        if "registers" in line:
            assert line["spill_bytes"] == 0, line
            assert line["wide_loads"], line
            assert line["wide_stores"], line
