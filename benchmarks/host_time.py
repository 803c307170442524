"""What a call costs the host: a step on so few numbers that nothing else takes time, each loss in turn.

    python -m benchmarks.host_time [--device cuda]

Ours twice: called, and as the operator of torch.library that a compiled model calls. On a GPU the host only
queues; on a CPU it computes too, by plain torch, and only the ratios say something.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest import mock

import torch

from benchmarks.inputs import Case, make_inputs
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.runner import GATES
from benchmarks.step import check, step
from cotbal import losses, ops

CASES = (Case("logits", 8, 256, share=1.0), Case("linear", 8, 256, 16, share=1.0))
# Steps that fit the queue of a GPU.
ROUNDS, STEPS = 20, 50
OURS = "cotbal"
# What has an operator: a loss that writes over its logits can have none.
OPERATED, AS_OPERATOR = {"logits": "cotbal kept", "linear": OURS}, " as an operator"
# Only these; empty: all that can be had.
NAMES: tuple[str, ...] = ()


def providers(level: str, device: str) -> list[Provider]:
    """Those that can be weighted, and ours a second time to be called as its operator."""
    found = [each for each in find_providers(level, device, names=NAMES)[0] if each.weighted and each.exact]
    (ours,) = (each for each in found if each.name == OPERATED[level])
    return [replace(ours, name=ours.name + AS_OPERATOR), *found]


@contextmanager
def _as_operator() -> Iterator[None]:
    """No call of ours goes past its operator, forward and backward; costs a call nothing by itself."""

    def never(*_: object) -> bool:
        return False

    with mock.patch.object(losses, "is_plain_call", never), mock.patch.object(ops, "is_plain_call", never):
        yield


def microseconds(case: Case, device: str) -> dict[str, float]:
    """By provider, the median of its rounds.

    Raises:
        AssertionError: one is wrong; there is no time without the right result.
    """
    case = replace(case, dtype="float32" if device == "cpu" else case.dtype)
    found, inputs = providers(case.level, device), make_inputs(case, device)
    for each in found:
        for name, error in check(each, case, device).items():
            gate = GATES[case.torch_dtype.itemsize] * error.ulp(case.torch_dtype)
            assert error.absolute <= gate, (each.name, name, error)
    taken: dict[str, list[float]] = {each.name: [] for each in found}
    for _ in range(1 + ROUNDS):
        for each in found:
            with _as_operator() if each.name.endswith(AS_OPERATOR) else nullcontext():
                start = time.perf_counter()
                for _ in range(STEPS):
                    step(each, inputs)
                taken[each.name].append((time.perf_counter() - start) / STEPS * 1e6)
            if device == "cuda":
                torch.cuda.synchronize()
    # The first round compiles.
    return {name: statistics.median(rounds[1:]) for name, rounds in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the losses run")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    for case in CASES:
        found = microseconds(case, device)
        print(f"{case.level}, {case.rows} x {case.vocabulary}, {device}: microseconds of the host a step")
        for name, taken in sorted(found.items(), key=lambda each: each[1]):
            print(f"  {name:<26} {taken:8.0f}   {taken / found[OURS]:5.2f} of {OURS}'s")


if __name__ == "__main__":
    main()
