"""The self-contained page: one HTML file with figures, tables, pictures and the what-if's script inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotbal.files import write_text_atomically
from cotbal.report import page_tables, seeds
from cotbal.report.comparison_tables import finals_tables
from cotbal.report.embed import inline_svg, png_data_uri
from cotbal.report.figures import draw_figures
from cotbal.report.noise import lost_columns, without_value
from cotbal.report.render import render
from cotbal.report.style import svg_text

SIGNALS = ("one2all", "all2one", "difficulty")
DESCRIPTIONS = {
    "contribution": "Heat map of the contribution of each task to each other task",
    "difficulty": "Bar chart of the difficulty of each task",
    "radar": "Radar chart of test scores of CoTBal and equal weights, relative to single-task models",
    "reach": "Radar chart of the mini run's score on each task, relative to training on the task in full",
    "weights": "Dot plot of the task weights under every rule",
    "improvement": "Dot plot of delta I and delta E of each method with the noise between seeds",
}


def write_page(
    results: seeds.Results | None,
    folder: Path,
    samples: Sequence[Mapping[str, Any]] | None = None,
    runs: Mapping[str, Any] | None = None,
    finals: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html` into `folder`, whole or not at all, and return its path.

    Args:
        results: the results dictionary, schema version 1; None where there is only the state of the runs.
        folder: made if it is missing.
        samples: records to show, each with "task", "question", "answer" and "image", a uint8 array (H, W, 3)
            or None.
        runs: what the runs have cost and how far they are, as of `cotbal.project.account.account`.
        finals: the comparison of the final models, as of `cotbal.compare.compare`.

    Raises:
        ValueError: `results` has another schema version or lacks a seed.
    """
    return write_text_atomically(folder / "report.html", render_page(results, samples, runs, finals))


def render_page(
    results: seeds.Results | None,
    samples: Sequence[Mapping[str, Any]] | None = None,
    runs: Mapping[str, Any] | None = None,
    finals: Mapping[str, Any] | None = None,
) -> str:
    """Return the page as HTML; the same arguments give the same text."""
    known = {} if results is None else _of_results(results)
    return render(
        "report.html",
        results=results,
        samples=[_sample(sample) for sample in samples or ()],
        runs=runs,
        runs_table=runs and page_tables.runs_table(runs),
        runs_line=runs and runs_line(runs),
        finals=finals,
        finals_tables=finals_tables(finals) if finals else [],
        **known,
    )


def _of_results(results: seeds.Results) -> dict[str, Any]:
    figures = draw_figures(results)
    tested = bool(seeds.methods(results))
    is_estimate = results["kind"] == "estimate"
    return {
        "tested": tested,
        "intervals": seeds.intervals(results),
        "seeds_note": seeds.seeds_note(results),
        "mini_data": seeds.mini_data(results),
        "full_data": seeds.full_data(results),
        "turned_note": seeds.turned_note(results),
        "noise_note": seeds.noise_note(results),
        "unidentified_note": seeds.imputed_note(results),
        "statements": _statements(results),
        "verdicts": _verdicts(results),
        "figures": {
            name: inline_svg(svg_text(figure), name, _description(name, tested))
            for name, figure in figures.items()
        },
        "tables": page_tables.all_tables(results),
        "what_if": what_if_data(results) if is_estimate else None,
        "reasons": _reasons(results) if is_estimate else {},
        "cost": _cost(results["run"]) if "run" in results else None,
        "code": _code(results),
    }


def _reasons(results: seeds.Results) -> dict[str, str]:
    """Return why tasks are left out; one whose draws have no value is not, and a statement names it."""
    told = without_value(results)
    return {task: reason for task, reason in lost_columns(results).items() if task not in told}


def _description(name: str, tested: bool) -> str:
    return DESCRIPTIONS["reach" if name == "radar" and not tested else name]


def runs_line(runs: Mapping[str, Any]) -> str:
    """Return in one sentence how many runs are finished and what they took."""
    totals = runs["totals"]
    failed = f", {totals['failed']} failed" if totals["failed"] else ""
    again = f", without the earlier tries of {totals['again']}" if totals["again"] else ""
    return (
        f"{totals['finished']} of {totals['runs']} runs are finished{failed}; they took "
        f"{_hours(totals['device_hours'])} {totals['device']}-hours{again}."
    )


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours < 999.5 else f"{hours:,.0f}"


def what_if_data(results: seeds.Results) -> dict[str, Any] | None:
    """Return what the page's script computes weights from; None where the scores allow no rule but equal."""
    (entry,) = results["by_seed"].values()
    rules = [rule for rule in seeds.rules(results) if rule in entry["weights"]]
    if rules == ["equal"]:
        return None
    rule = results["rule"] if results["rule"] in rules else rules[0]
    weights = seeds.weights(results, rule)
    return {
        "rule": rule,
        "estimated": [(task, seeds.spell(value.mean)) for task, value in weights.items()],
        "rules": rules,
        "temperature": results["temperature"],
        "alpha": results["alpha"],
        "signals": {"tasks": results["tasks"], **{key: entry[key] for key in SIGNALS}},
    }


def _statements(results: seeds.Results) -> list[str]:
    """Return the verdict on CoTBal and every statement that is not about another method."""
    ours = results.get("summary", {}).get("against_EW", {}).get("CoTBal")
    others = _verdicts(results)
    lines = [*([ours["verdict"]] if ours else []), *results["statements"]]
    return [line for line in dict.fromkeys(lines) if line not in others]


def _verdicts(results: seeds.Results) -> list[str]:
    """Return the verdicts on the other methods."""
    verdicts = results.get("summary", {}).get("against_EW", {})
    return [entry["verdict"] for method, entry in verdicts.items() if method != "CoTBal"]


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    image = sample["image"]
    return {**sample, "image": None if image is None else png_data_uri(image)}


def _cost(run: Mapping[str, Any]) -> str:
    wall, cpu = _duration(run["wall_seconds"]), _duration(run["cpu_seconds"])
    return f"{wall} of wall time, {cpu} of CPU time, workers: {run['workers']}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _code(results: seeds.Results) -> str | None:
    """Return three lines that train with these weights; task ids count the names in the comment from 0."""
    rule = results.get("rule", "cotbal")
    if rule not in seeds.rules(results):
        return None
    estimated = [value.mean for value in seeds.weights(results, rule).values()]
    # In six digits, whatever their size: a weight that is printed as 0.0000 would leave its task out.
    numbers = [f"{weight:.6g}" for weight in [*estimated, *results["fixed"].values()]]
    weights = ", ".join(str(float(number)) for number in numbers)
    names = ", ".join(" ".join(name.split()) for name in (*results["tasks"], *results["fixed"]))
    call = (
        "cotbal.linear_gtw_cross_entropy(hidden, lm_head.weight, labels, task_ids, task_weights, shift=True)"
    )
    return f"import torch, cotbal\ntask_weights = torch.tensor([{weights}])  # {names}\nloss = {call}"
