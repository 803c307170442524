"""The benchmarks that need no GPU: bytes moved, machine code, error against float64, CPU time and memory.

    make bench

Each leaves its numbers in `extra_info` and in `results/<device>/`, prints its table and asserts the bounds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import exactness, linear_cpu, machine_code, traffic, whole_step
from benchmarks.results import environment, path_of, save

Report = Callable[..., dict[str, Any]]


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
def once(benchmark: Any) -> Callable[..., dict[str, Any]]:
    """Runs a report once under pytest-benchmark; keeps, prints and returns what it found."""

    def run(name: str, in_words: Callable[[Any], str], report: Report, *arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = benchmark.pedantic(report, args=arguments, rounds=1, iterations=1)
        benchmark.extra_info.update(found)
        device = torch.device("cpu")
        save(path_of(name, device), {"environment": environment(device), "found": found})
        print("\n" + in_words(found))
        return found

    return run


def test_bytes_moved(once: Report) -> None:
    found = once("traffic", traffic.in_words, in_interpreter, "benchmarks.traffic")
    assert not traffic.failures(found)


def test_machine_code(once: Report) -> None:
    found = once("machine_code", machine_code.in_words, machine_code.report)
    assert not any(launch.get("spill_bytes") for launch in found["launches"])


def test_error_against_float64(once: Report) -> None:
    found = once("exactness", exactness.in_words, in_interpreter, "benchmarks.exactness")
    assert all(verdict["passed"] for verdict in found["verdicts"])


def test_linear_on_a_cpu(once: Report) -> None:
    found = once("linear_cpu", linear_cpu.in_words, linear_cpu.report)
    assert all(row["passed"] for row in found["shares"])


def test_whole_step(once: Report) -> None:
    size = whole_step.SIZES["cpu"]
    found = once("whole_step", whole_step.in_words, whole_step.measure, "cpu", size)
    assert all(row.get("right") for row in found["rows"] if row["ours"])
