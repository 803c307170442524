"""Largest error of loss and gradients against float64, ours beside every rival that runs here.

    python -m benchmarks.exactness [--json]

Ours may be at most one unit in the last place (of the largest entry of the reference) worse than the best
rival, for every output, dtype and kind of logits.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import linear_providers, logits_providers
from benchmarks.inputs import KINDS, Case, make_inputs
from benchmarks.interpreted import run_interpreted
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.step import Error, Reference, step

DTYPES = ("float32", "bfloat16", "float16")
# Odd sizes, so that the last block is a part of one; several vocabulary entries a row, several rows a class.
LOGITS, LINEAR = Case("logits", 64, 8195, share=0.5), Case("linear", 192, 2115, 256, share=0.5)


@dataclass(frozen=True)
class Cell:
    """One number of the table: the error of one output of one provider in one case."""

    level: str
    provider: str
    ours: bool
    dtype: str
    kind: str
    output: str
    error: float
    ulp: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.level, self.dtype, self.kind, self.output


@dataclass(frozen=True)
class Verdict:
    """Ours against the best rival in one cell; `allowed` is the rival's error plus one unit."""

    cell: Cell
    best_rival: str
    allowed: float

    @property
    def passed(self) -> bool:
        # NaN passes nothing.
        return self.cell.error <= self.allowed


def measure() -> tuple[list[Cell], list[str]]:
    """All cells, and a line for each rival that is absent or failed."""
    cells: list[Cell] = []
    lines: list[str] = []
    for case in (LOGITS, LINEAR):
        rivals, absent = find_providers(case.level)
        lines += [str(line) for line in absent]
        compared = [*_ours(case.level), *(rival for rival in rivals if _comparable(rival))]
        for dtype in DTYPES:
            for kind in KINDS:
                used = Case(**asdict(case) | {"dtype": dtype, "kind": kind})
                reference = Reference(used)
                for provider in compared:
                    try:
                        errors = reference.errors(step(provider, make_inputs(used)))
                    # A rival that fails on a dtype is reported, and the others are still compared.
                    except Exception as error:
                        if provider.ours:
                            raise
                        lines.append(f"{provider.name} ({used}): failed, {type(error).__name__}: {error}")
                        continue
                    cells += _cells(provider, used, errors)
    return cells, lines


def verdicts(cells: list[Cell]) -> Iterator[Verdict]:
    """Each of our cells against the best rival's."""
    for cell in cells:
        if cell.ours:
            rivals = [other for other in cells if other.key == cell.key and not other.ours]
            best = min(rivals, key=lambda rival: rival.error)
            yield Verdict(cell, best.provider, best.error + cell.ulp)


def _ours(level: str) -> list[Provider]:
    if level == "logits":
        return [
            logits_providers.ours(f"cotbal {impl}", inplace=False, impl=impl) for impl in ("triton", "torch")
        ]
    return [linear_providers.ours(f"cotbal {impl}", impl=impl) for impl in ("triton", "torch")]


def _comparable(provider: Provider) -> bool:
    # A loss without weights computes another number, and compiling on a CPU says nothing about a GPU.
    return provider.weighted and not provider.ours and not provider.slow_start


def _cells(provider: Provider, case: Case, errors: dict[str, Error]) -> Iterator[Cell]:
    for output, error in errors.items():
        # Losses are float32 whatever the logits are.
        dtype = torch.float32 if output == "loss" else case.torch_dtype
        yield Cell(
            case.level,
            provider.name,
            provider.ours,
            case.dtype,
            case.kind,
            output,
            error.absolute,
            error.ulp(dtype),
        )


def report() -> dict[str, Any]:
    """The table and the verdicts as plain data."""
    cells, lines = measure()
    return {
        "cells": [asdict(cell) for cell in cells],
        "verdicts": [
            asdict(verdict.cell)
            | {"best_rival": verdict.best_rival, "allowed": verdict.allowed, "passed": verdict.passed}
            for verdict in verdicts(cells)
        ],
        "skipped": lines,
    }


def in_words(found: dict[str, Any]) -> str:
    """The table: errors in units in the last place of the largest entry, then the verdicts."""
    providers = list(dict.fromkeys((cell["level"], cell["provider"]) for cell in found["cells"]))
    lines = []
    for level in ("logits", "linear"):
        names = [name for place, name in providers if place == level]
        lines.append("  ".join([f"{level + ', error in ulp':<34}", *(f"{name:>15}" for name in names)]))
        cells = {
            (cell["dtype"], cell["kind"], cell["output"], cell["provider"]): cell["error"] / cell["ulp"]
            for cell in found["cells"]
            if cell["level"] == level
        }
        for dtype, kind, output in dict.fromkeys(key[:3] for key in cells):
            values = [cells.get((dtype, kind, output, name)) for name in names]
            spelled = [f"{'-' if value is None else format(value, '.2f'):>15}" for value in values]
            lines.append("  ".join([f"{dtype:<9} {kind:<10} {output:<13}", *spelled]))
    passed = sum(verdict["passed"] for verdict in found["verdicts"])
    lines += [f"within the best rival's error + 1 ulp: {passed} of {len(found['verdicts'])}"]
    lines += [
        f"  NOT: {v['provider']}, {v['level']}, {v['dtype']}, {v['kind']}, {v['output']}: "
        f"{v['error'] / v['ulp']:.2f} ulp, allowed {v['allowed'] / v['ulp']:.2f} ({v['best_rival']})"
        for v in found["verdicts"]
        if not v["passed"]
    ]
    return "\n".join([*lines, *found["skipped"]])


def main() -> None:
    """Print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    wants_json = parser.parse_args().json
    run_interpreted("benchmarks.exactness")
    found = report()
    print(json.dumps(found, indent=1) if wants_json else in_words(found))


if __name__ == "__main__":
    main()
