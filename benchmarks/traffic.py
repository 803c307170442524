"""Reads and writes per logit of loss and gradient, ours beside every rival that runs in the interpreter.

python -m benchmarks.traffic [--json]
"""

import argparse
import json
from dataclasses import replace
from typing import Any

from benchmarks import linear_providers, logits_providers
from benchmarks.counting import count, per_logit
from benchmarks.inputs import Case
from benchmarks.interpreted import run_interpreted
from benchmarks.provider import Provider
from benchmarks.providers import find_providers

# A program holds a row of 32768; 131072 takes two passes. In float16, which is as wide as bfloat16: the
# interpreter cannot multiply in that, as one of the rivals does.
LOGITS_CASES = (
    Case("logits", 8, 32768, share=1.0, dtype="float16"),
    Case("logits", 8, 131072, share=1.0, dtype="float16"),
)
LINEAR_CASE = Case("linear", 512, 4096, 64, share=1.0, dtype="float16")
UPSTREAM = (1.0, 0.25)
# Reads and writes per logit at an upstream gradient of 1: a row that fits one program, and two passes.
_ONE_READ, _TWO_PASSES = (1.01, 1.01), (2.01, 1.01)


def report() -> dict[str, Any]:
    """A row for each case and provider: passes over the logits, read and written, by upstream gradient."""
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for case in (*LOGITS_CASES, LINEAR_CASE):
        providers, absent = _providers(case.level)
        skipped += [line for line in absent if line not in skipped]
        for provider in providers:
            described = {"level": case.level, "rows": case.rows, "vocabulary": case.vocabulary}
            described |= {"provider": provider.name, "ours": provider.ours, "weighted": provider.weighted}
            passes = {str(value): _passes(provider, replace(case, upstream=value)) for value in UPSTREAM}
            rows.append(described | {"upstream": passes})
    return {"rows": rows, "skipped": skipped}


def failures(found: dict[str, Any]) -> list[str]:
    """A line for each of our rows that moves more than its bound."""
    lines = []
    for row in found["rows"]:
        if not row["ours"]:
            continue
        at_1, _ = (row["upstream"][str(value)] for value in UPSTREAM)
        for place, name in enumerate(("read", "written")):
            if row["level"] == "logits":
                bound = (_ONE_READ if row["vocabulary"] <= 32768 else _TWO_PASSES)[place]
                allowed = {"1.0": bound, "0.25": at_1[name] + 1.01}
            else:
                allowed = {"0.25": at_1[name]}
            lines += [
                f"{row['provider']}, {row['level']}, V = {row['vocabulary']}, upstream {value}: "
                f"{name} {row['upstream'][value][name]:.3f}, allowed {most:.3f}"
                for value, most in allowed.items()
                if row["upstream"][value][name] > most
            ]
    return lines


def in_words(found: dict[str, Any]) -> str:
    """The table, reads + writes per logit."""
    lines = [f"{'reads + writes per logit':<44} {'upstream 1':>14} {'0.25':>14} {'products, at 1':>16}"]
    for row in found["rows"]:
        name = row["provider"] if row["weighted"] else f"{row['provider'].split()[0]} (unweighted)"
        at_1, at_other = (row["upstream"][str(value)] for value in UPSTREAM)
        moved, other = (f"{at['read']:.2f} + {at['written']:.2f}" for at in (at_1, at_other))
        products = f"{at_1['products_read']:.2f} + {at_1['products_written']:.2f}"
        where = f"{row['level']}, V = {row['vocabulary']}"
        lines.append(f"{where:<18} {name:<25} {moved:>14} {other:>14} {products:>16}")
    lines.append(
        "in passes of 2 bytes a logit; cotbal's linear level reads float32 logits, and on a CPU float32 "
        "copies of its products' factors"
    )
    lines += [f"beyond its bound: {line}" for line in failures(found)] or ["ours are within the bounds"]
    return "\n".join([*lines, *found["skipped"]])


def _passes(provider: Provider, case: Case) -> dict[str, Any]:
    traffic = count(provider, case)
    found: dict[str, Any] = {
        "read": per_logit(traffic.logits[0], case),
        "written": per_logit(traffic.logits[1], case),
        "products_read": per_logit(traffic.products[0], case),
        "products_written": per_logit(traffic.products[1], case),
    }
    by_operation = {name: per_logit(n_bytes, case) for name, n_bytes in traffic.by_operation.items()}
    return found | {"by_operation": by_operation}


def _providers(level: str) -> tuple[list[Provider], list[str]]:
    """Ours by the kernel, which the CPU does not take by itself, and the rivals; lines about the others."""
    if level == "logits":
        own = [
            logits_providers.ours("cotbal", inplace=True, impl="triton"),
            logits_providers.ours("cotbal kept", inplace=False, impl="triton"),
        ]
    else:
        own = [linear_providers.ours("cotbal", impl="triton")]
    rivals, absent = find_providers(level)
    lines = [str(line) for line in absent]
    lines += [
        f"{r.name} ({level}): skipped, it takes another path on a CPU" for r in rivals if not r.same_on_cpu
    ]
    return own + [r for r in rivals if not r.ours and r.same_on_cpu and not r.slow_start], lines


def main() -> None:
    """Print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    wants_json = parser.parse_args().json
    run_interpreted("benchmarks.traffic")
    found = report()
    print(json.dumps(found, indent=1) if wants_json else in_words(found))


if __name__ == "__main__":
    main()
