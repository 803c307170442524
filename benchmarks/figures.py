"""Draws the figures of README and of benchmarks/README from result files, losing shapes included.

    python -m benchmarks.figures [RESULTS.json ...] [--out docs]

Time and memory of every loss that was right, against the vocabulary and against the share of valid rows.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.inputs import Case
from benchmarks.plan import BARE
from benchmarks.results import RESULTS, load
from cotbal.report.style import BLUE, GREEN, MUTED, ORANGE, PINK, SKY, VERMILION, paper_style

# Ours stands out; a rival keeps its colour in every figure.
_COLOURS = {
    "cotbal": VERMILION,
    "cotbal min": VERMILION,
    "cotbal kept": VERMILION,
    "Liger": BLUE,
    "compact + Liger": BLUE,
    "torch": MUTED,
    "torch fp32": MUTED,
    "torch compiled": SKY,
    "torch chunked": SKY,
    "compact + torch": SKY,
    "CCE": GREEN,
    "CCE exact": GREEN,
    "TRL": PINK,
    "FLA": ORANGE,
    "flash-attn": ORANGE,
}
_LINES = ("-", "--", ":", "-.")
_MEASURES = (("milliseconds", "milliseconds"), ("peak_mib", "added memory, MiB"))


def draw(content: dict[str, Any], folder: Path, device: str) -> list[Path]:
    """Writes one PNG per level that the results have: `benchmark_<level>_<device>.png`."""
    cases = {result["key"]: Case(**result["case"]) for result in content["results"]}
    written = []
    for level in ("logits", "linear"):
        right = [r for r in content["results"] if r["status"] == "ok" and r["case"]["level"] == level]
        if not right:
            continue
        with paper_style():
            figure = _figure(right, cases, content["environment"]["device"])
            path = folder / f"benchmark_{level}_{device}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150, metadata={"Software": None})
        written.append(path)
    return written


def _figure(results: list[dict[str, Any]], cases: dict[str, Case], device: str) -> Figure:
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axes = figure.subplots(2, 2)
    by_vocabulary, by_share, centre = _sweeps(results, cases)
    columns = (
        (by_vocabulary, "V, 20 % of the rows valid"),
        (by_share, f"share of valid rows, %, V = {centre}"),
    )
    for row, (measure, label) in enumerate(_MEASURES):
        for column, (sweep, words) in enumerate(columns):
            _panel(axes[row][column], sweep, measure, label, words)
    handles = {h.get_label(): h for axis in axes.flat for h in axis.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    figure.suptitle(_title(results, cases, device), fontsize=10)
    return figure


# By provider, the points of its line: (x, result).
Sweep = dict[str, list[tuple[float, dict[str, Any]]]]


def _sweeps(results: list[dict[str, Any]], cases: dict[str, Case]) -> tuple[Sweep, Sweep, int | None]:
    """The results against V (each model at its own width), against the share at one V, and that V."""
    plain = [r for r in results if _is_plain(cases[r["key"]])]
    rows = _commonest(cases[r["key"]].rows for r in plain)
    at_rows = [r for r in plain if cases[r["key"]].rows == rows]
    centre = _commonest(cases[r["key"]].vocabulary for r in at_rows if cases[r["key"]].share == 0.05)
    by_vocabulary: Sweep = {}
    by_share: Sweep = {}
    for result in at_rows:
        case = cases[result["key"]]
        if case.share == 0.2:
            by_vocabulary.setdefault(result["provider"], []).append((case.vocabulary, result))
        if case.vocabulary == centre:
            by_share.setdefault(result["provider"], []).append((100 * case.share, result))
    return by_vocabulary, by_share, centre


def _is_plain(case: Case) -> bool:
    return case == replace(case, kind="random", upstream=1.0, frozen_head=False)


def _commonest(values: Iterable[int]) -> int | None:
    counted = list(values)
    return max(set(counted), key=counted.count) if counted else None


def _panel(axis: Axes, sweep: Sweep, measure: str, label: str, words: str) -> None:
    for name, points in sweep.items():
        drawn = sorted((x, r[measure]) for x, r in points if r.get(measure))
        if not drawn or name == BARE:
            continue
        used = [other for other in _COLOURS if _COLOURS[other] == _COLOURS.get(name)]
        axis.plot(
            *zip(*drawn, strict=True),
            _LINES[used.index(name) % len(_LINES)] if name in used else "-",
            marker="o",
            markersize=3,
            color=_COLOURS.get(name, MUTED),
            linewidth=2 if name == "cotbal" else 1,
            label=name if points[0][1].get("weighted", True) else f"{name} (unweighted)",
        )
    axis.set(xlabel=words, ylabel=label, xscale="log", yscale="log")
    if sweep:
        ticks = sorted({x for points in sweep.values() for x, _ in points})
        # 32000 and 32003 are one place on the axis, and would be written over each other.
        apart = [tick for last, tick in zip([0, *ticks], ticks, strict=False) if tick > 1.02 * last]
        axis.set_xticks(apart, [f"{tick:g}" for tick in apart], rotation=30)
        axis.minorticks_off()


def _title(results: list[dict[str, Any]], cases: dict[str, Case], device: str) -> str:
    case = cases[results[0]["key"]]
    rows = _commonest(cases[r["key"]].rows for r in results)
    return f"{case.level}, {rows} rows, {case.dtype}, loss and gradients, {device}"


def main() -> None:
    """Write the figures of the given files, or of all timings there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, help="by default every results/*/timings.json")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    for path in options.results or sorted(RESULTS.glob("*/timings.json")):
        for written in draw(load(path), options.out, path.parent.name):
            print(f"Wrote {written}")


if __name__ == "__main__":
    main()
