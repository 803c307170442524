"""The linear loss on a CPU: cotbal beside full logits in plain torch, in one run on the same inputs.

    python -m benchmarks.linear_cpu [--json]

Times are pairs taken one right after the other, and their ratio is what counts: the machine's mood is in
both. The memory is what one step adds to a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import Case, LossInputs, make_inputs
from benchmarks.meters import added_resident_mib
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.step import step

PAIRS = 5
OURS, FULL = "cotbal", "torch"
# The head of LLaVA-1.5 at a quarter of its width: the product decides, and it fits a laptop.
CASE = Case("linear", 4096, 32000, 1024, dtype="float32")
# By share of valid rows: at least so many times as fast, at most this part of the added memory.
BOUNDS = {0.2: (4.0, 0.30), 1.0: (0.95, 0.45)}


def case_of(share: float) -> Case:
    return Case("linear", CASE.rows, CASE.vocabulary, CASE.width, share=share, dtype=CASE.dtype)


def providers() -> dict[str, Provider]:
    """Ours and full logits."""
    found, _ = find_providers("linear", names=(OURS, FULL))
    return {provider.name: provider for provider in found}


def paired_seconds(inputs: LossInputs, pairs: int) -> dict[str, list[float]]:
    """Seconds of `pairs` steps of each provider, taken in turn.

    Raises:
        AssertionError: the two disagree; there is no time without the right result.
    """
    both = providers()
    _assert_equal(*(step(provider, inputs) for provider in both.values()))
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(pairs):
        for name, provider in both.items():
            start = time.perf_counter()
            step(provider, inputs)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _assert_equal(ours: tuple[Tensor, ...], full: tuple[Tensor, ...]) -> None:
    # Two float32 summation orders differ by a few units in the last place.
    for got, want in zip(ours, full, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def added_mib(provider: str, share: float) -> float:
    """What one step adds to the memory of a fresh process, in MiB."""
    command = [sys.executable, "-m", "benchmarks.linear_cpu", "--added", provider, str(share)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _added_here(provider: str, share: float) -> float:
    inputs = make_inputs(case_of(share))
    loss = providers()[provider]
    return added_resident_mib(lambda: step(loss, inputs))


def compare(share: float, pairs: int = PAIRS) -> dict[str, Any]:
    """One row of the table: both providers at a share of valid rows, against the bounds."""
    seconds = paired_seconds(make_inputs(case_of(share)), pairs)
    faster = statistics.median(full / ours for ours, full in zip(seconds[OURS], seconds[FULL], strict=True))
    memory = {name: added_mib(name, share) for name in seconds}
    return {
        "share": share,
        "seconds": seconds,
        "added_mib": memory,
        "times_as_fast": faster,
        "part_of_memory": memory[OURS] / memory[FULL],
        "bounds": BOUNDS[share],
        "passed": faster >= BOUNDS[share][0] and memory[OURS] <= BOUNDS[share][1] * memory[FULL],
    }


def report() -> dict[str, Any]:
    """The table as plain data."""
    described = {"rows": CASE.rows, "vocabulary": CASE.vocabulary, "width": CASE.width, "dtype": CASE.dtype}
    return described | {"threads": torch.get_num_threads(), "shares": [compare(share) for share in BOUNDS]}


def in_words(found: dict[str, Any]) -> str:
    """The table."""
    lines = [f"linear loss, {found['rows']} x {found['vocabulary']} x {found['width']}, {found['dtype']}"]
    for row in found["shares"]:
        ours, full = (statistics.median(row["seconds"][name]) for name in (OURS, FULL))
        fastest, leanest = row["bounds"]
        mine, whole = (row["added_mib"][name] for name in (OURS, FULL))
        lines.append(
            f"{row['share']:>5.0%} valid: {ours:.2f} s against {full:.2f} s, "
            f"{row['times_as_fast']:.2f} times as fast (bound {fastest:g}); "
            f"{mine:.0f} MiB against {whole:.0f}, "
            f"{row['part_of_memory']:.0%} (bound {leanest:.0%}): {'pass' if row['passed'] else 'FAIL'}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--added", nargs=2, metavar=("PROVIDER", "SHARE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.added:
        print(_added_here(options.added[0], float(options.added[1])))
        return
    found = report()
    print(json.dumps(found, indent=1) if options.json else in_words(found))


if __name__ == "__main__":
    main()
