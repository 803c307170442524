"""The benchmarks that need no GPU: bytes moved, machine code, error against float64, CPU time and memory.

    make bench

Each keeps its numbers in `extra_info`, prints its table and asserts the bounds.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks import exactness, linear_cpu, machine_code, traffic, whole_step


def in_interpreter(module: str) -> dict[str, Any]:
    """The JSON of a benchmark whose kernels are interpreted, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, "--json"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # A rival may say something on the way.
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def once(benchmark: Any) -> Any:
    """Runs a report once under pytest-benchmark and keeps what it returns."""

    def run(report: Any, *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = benchmark.pedantic(report, args=arguments, rounds=1, iterations=1)
        benchmark.extra_info.update(found, torch=torch.__version__)
        return found

    return run


def test_bytes_moved(once: Any) -> None:
    found = once(in_interpreter, "benchmarks.traffic")
    print("\n" + traffic.in_words(found))
    assert not traffic.failures(found)


def test_machine_code(once: Any) -> None:
    found = once(machine_code.report)
    print("\n" + machine_code.in_words(found))
    assert not any(launch.get("spill_bytes") for launch in found["launches"])


def test_error_against_float64(once: Any) -> None:
    found = once(in_interpreter, "benchmarks.exactness")
    print("\n" + exactness.in_words(found))
    assert all(verdict["passed"] for verdict in found["verdicts"])


@pytest.mark.parametrize("share", linear_cpu.BOUNDS)
def test_linear_on_a_cpu(share: float, once: Any) -> None:
    row = once(linear_cpu.compare, share)
    described: dict[str, Any] = {"rows": linear_cpu.CASE.rows, "vocabulary": linear_cpu.CASE.vocabulary}
    described |= {"width": linear_cpu.CASE.width, "dtype": linear_cpu.CASE.dtype}
    print("\n" + linear_cpu.in_words(described | {"shares": [row]}))
    assert row["passed"]


def test_whole_step(once: Any) -> None:
    found = once(whole_step.measure, "cpu", whole_step.SIZES["cpu"])
    print("\n" + whole_step.in_words(found))
    assert all(row.get("right") for row in found["rows"] if row["ours"])
