"""Writes docs/benchmarks.md from the result files: every table as it was measured, its environment above it.

python -m benchmarks.tables
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import exactness, linear_cpu, machine_code, traffic, whole_step
from benchmarks.bounds import bounds_in_words, check_bounds
from benchmarks.results import RESULTS, load
from benchmarks.runner import in_words as timing_in_words
from cotbal.files import write_text_atomically

# By file name: its heading, and how it is put in words.
_TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "traffic": ("Bytes moved", traffic.in_words),
    "exactness": ("Error against float64", exactness.in_words),
    "machine_code": ("Machine code", machine_code.in_words),
    "linear_cpu": ("The linear loss on a CPU", linear_cpu.in_words),
    "whole_step": ("A training step", whole_step.in_words),
}

# Lines of the page, on what is not in the tables.
_DROPPED = (
    "The kernels have fewer instructions since the H100 was measured (sm_90, bfloat16: 698 in place of 842\n"
    "for V = 32000, 1325 in place of 2041 for longer rows): not timed yet.\n\n"
    "Taken out for its speed: a row shared by a cluster of programs. On an H100 with Triton 3.8 it reached\n"
    ".55, .26, .49 of the copy's bandwidth at V = 128256, 152064, 262144; two passes reach .75 to .79."
)


def page(folder: Path = RESULTS) -> str:
    """The page in Markdown: a part for each device and result file."""
    made = "Made by `python -m benchmarks.tables`; how to measure: `benchmarks/README.md`."
    parts = ["# Benchmarks", made, _DROPPED]
    for path in sorted(folder.glob("*/*.json")):
        content = load(path)
        if path.stem in _TABLES:
            heading, in_words = _TABLES[path.stem]
            parts.append(_part(heading, content, in_words(content["found"])))
        elif path.stem == "timings":
            lines = [timing_in_words(result) for result in content["results"]]
            bounds = check_bounds(content)
            body = "\n".join([*lines, "", bounds_in_words(bounds)] if bounds else lines)
            parts.append(_part("Timings", content, body))
    return "\n\n".join(parts) + "\n"


def _part(heading: str, content: dict[str, Any], body: str) -> str:
    made = content["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    return (
        f"## {heading}: {made['device']}\n\n"
        f"{content['written']}, {versions}, {made['threads']} threads.\n\n```text\n{body}\n```"
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs") / "benchmarks.md")
    print(f"Wrote {write_text_atomically(parser.parse_args().out, page())}")


if __name__ == "__main__":
    main()
