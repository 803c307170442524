"""The CPU path of the linear loss against full logits in plain torch, forward and backward, in one run.

Absolute times of a CPU say little; read the ratio of the two rows of a group. FLOPs: 6 Nv V D for cotbal and
6 N V D for full logits (one product forward, two backward), Nv valid rows of N. `added_mib` is the memory
that one step adds to a fresh process.
"""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.linear_cpu import PROVIDERS, ROWS, VOCABULARY, WIDTH, Inputs, make_inputs, step


@pytest.fixture(scope="module", params=[0.2, 1.0])
def share(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(scope="module")
def inputs(share: float) -> Inputs:
    return make_inputs(share)


@pytest.fixture(scope="module")
def expected(inputs: Inputs) -> tuple[Tensor, ...]:
    return step("torch", inputs)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_linear_loss(
    provider: str, share: float, inputs: Inputs, expected: tuple[Tensor, ...], benchmark: Callable
) -> None:
    # No time without the right result; two float32 summation orders differ by a few units in the last place.
    for got, want in zip(step(provider, inputs), expected, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    command = [sys.executable, "-m", "benchmarks.linear_cpu", provider, str(share)]
    added = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    benchmark.group = f"linear loss, {share:.0%} of {ROWS} rows valid, V={VOCABULARY}, D={WIDTH}, float32"
    benchmark.extra_info.update(
        added_mib=added,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        flops_per_row=6 * VOCABULARY * WIDTH,
    )
    print(f"\n{provider}, {share:.0%} valid: one step adds {added:.0f} MiB")
    # The correctness check was the warm-up.
    benchmark.pedantic(step, args=(provider, inputs), rounds=3, warmup_rounds=0)
