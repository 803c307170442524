"""`cotbal weights`: from a score table to contribution, difficulty, every rule's weights and weights.json."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.estimate.scores import Scores
    from cotbal.estimate.uncertainty import Uncertainty
    from cotbal.weights import TaskWeights


def weights(
    scores: Annotated[
        list[Path],
        typer.Argument(
            help="Header run,TASK,TASK,...; a row mini and a row per task, named after it. One file per seed."
        ),
    ],
    rule: Annotated[
        str,
        typer.Option(
            help="The rule to write: cotbal, contribution, one2all, all2one, difficulty or equal.",
        ),
    ] = "cotbal",
    temperature: Annotated[float, typer.Option(help="T: below 1 sharpens the weights.")] = 0.5,
    alpha: Annotated[float, typer.Option(help="Share of the contribution in rule cotbal, 0..1.")] = 0.5,
    fixed: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=WEIGHT", help="A task with a stated weight; may be repeated."),
    ] = None,
    precise: Annotated[
        bool, typer.Option("--precise", help="Difficulty from the rows single_mini and single_full.")
    ] = False,
    on_unidentified: Annotated[
        str, typer.Option(help="A task that its full data does not help: raise, or drop its column of C.")
    ] = "raise",
    items: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON of per-item scores (items.json), one per score table: 95 % intervals, what is noise."
        ),
    ] = None,
    shrink: Annotated[
        bool,
        typer.Option(
            "--shrink", help="Pull noisy C and D to their mean by their reliability; needs --items."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("weights.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Print contribution, difficulty and every rule's weights of a score table, and write the weights.

    Several score tables are those of several seeds: their mean counts, and intervals are over seeds too.

    Example: cotbal weights scores.csv --items items.json --fixed chat=1.0 --out weights.json
    """
    import dataclasses

    from cotbal.estimate.items_json import read_items
    from cotbal.estimate.rules import RULES, estimate_weights
    from cotbal.estimate.scores import Scores
    from cotbal.estimate.seeds import pooled_scores
    from cotbal.estimate.uncertainty import uncertainty

    files = [read_items(path) for path in items or []]
    if files and len(files) != len(scores):
        raise ValueError(f"--items: expected one for each of {len(scores)} score tables, got {len(files)}")
    items_of = [file.items for file in files] if files else [{} for _ in scores]
    tables = [Scores.from_csv(path, items=of) for path, of in zip(scores, items_of, strict=True)]
    clusters = files[0].clusters if files else None
    table = pooled_scores(tables)
    options: dict[str, Any] = {
        "temperature": temperature,
        "alpha": alpha,
        "fixed": _fixed(fixed or []),
        "precise": precise,
        "on_unidentified": on_unidentified,
        "shrink": shrink,
        "clusters": clusters,
    }
    chosen = estimate_weights(tables, rule=rule, **options)
    by_rule, missing = {}, {}
    for name in RULES:
        try:
            by_rule[name] = estimate_weights(tables, rule=name, **options)
        except ValueError as error:
            missing[name] = str(error)
    summary = _summary(table, chosen, by_rule, missing)
    noise = None
    if files:
        noise = uncertainty(tables, temperature=temperature, alpha=alpha, clusters=clusters, shrink=shrink)
        summary["uncertainty"] = noise.to_json()
        provenance = {**chosen.provenance, "uncertainty": summary["uncertainty"]}
        chosen = dataclasses.replace(chosen, provenance=provenance)
    chosen.save(out)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print(summary)
        if noise is not None:
            _print_noise(noise, chosen)
        typer.echo(f"Wrote {out} (rule {rule}).")


def _fixed(pairs: list[str]) -> dict[str, float]:
    fixed: dict[str, float] = {}
    for pair in pairs:
        task, equals, weight = pair.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not (task and equals) or math.isnan(value):
            raise ValueError(f"--fixed: expected TASK=WEIGHT with a number, got {pair!r}")
        if task in fixed:
            raise ValueError(f"--fixed: task {task!r} stands twice; keep one")
        fixed[task] = value
    return fixed


def _summary(
    table: "Scores", chosen: "TaskWeights", by_rule: dict[str, "TaskWeights"], missing: dict[str, str]
) -> dict[str, Any]:
    from cotbal.estimate.signals import contribution

    C = contribution(table, on_unidentified="drop")
    signals = {
        name: by_rule[name].provenance[name] if name in by_rule else None
        for name in ("one2all", "all2one", "difficulty")
    }
    return {
        "tasks": list(table.tasks),
        "contribution": [[None if math.isnan(cell) else cell for cell in row] for row in C.tolist()],
        **signals,
        "unidentified": chosen.provenance["unidentified"],
        "weights": {rule: dict(estimated) for rule, estimated in by_rule.items()},
        "not_available": missing,
        "rule": chosen.rule,
        "fixed": chosen.fixed,
    }


def _print(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from cotbal.report.tables import print_columns

    def spell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    console, tasks = Console(), summary["tasks"]
    rows = summary["contribution"]
    print_columns(
        console,
        "Contribution C: the row's task to the column's task (Eq. 3)",
        tasks,
        {task: [spell(row[place]) for row in rows] for place, task in enumerate(tasks)},
    )
    titles = {"one2all": "C one-to-all", "all2one": "C all-to-one", "difficulty": "D"}
    signals = {
        title: [spell(value) for value in summary[key] or [None] * len(tasks)]
        for key, title in titles.items()
    }
    print_columns(
        console, "Mean contribution to and from the others (Eq. 4, 6), difficulty (Eq. 9)", tasks, signals
    )
    names = [*tasks, *summary["fixed"]]
    columns = {rule: [spell(by_task[name]) for name in names] for rule, by_task in summary["weights"].items()}
    print_columns(console, "Weights by rule", names, columns)
    if summary["unidentified"]:
        typer.echo(f"Not identified: {', '.join(summary['unidentified'])}.")
    for reason in dict.fromkeys(summary["not_available"].values()):
        rules = [rule for rule, its_reason in summary["not_available"].items() if its_reason == reason]
        typer.echo(f"No weights by {', '.join(rules)}: {reason}.")


def _print_noise(noise: "Uncertainty", chosen: "TaskWeights") -> None:
    from rich.console import Console

    from cotbal.report.tables import print_columns

    console, tasks = Console(), noise.tasks
    C = noise.contribution
    low, high, bounded = C.low.tolist(), C.high.tolist(), C.bounded.tolist()
    columns = {
        task: [_span(low[i][j], high[i][j]) if bounded[i][j] else "unbounded" for i in range(len(tasks))]
        for j, task in enumerate(tasks)
    }
    percent = f"{100 * noise.level:g} % intervals"
    print_columns(console, f"Contribution C, {percent} (Fieller)", tasks, columns)
    of_task = {"D": [_span(*ends) for ends in noise.difficulty.T.tolist()]}
    rules = {name: found for name, found in noise.rules.items() if found is not None}
    for name, found in rules.items():
        of_task[name] = [_span(*ends) for ends in zip(found.low.tolist(), found.high.tolist(), strict=True)]
    print_columns(console, f"Difficulty and weights, {percent} (bootstrap over the items)", tasks, of_task)
    for reason in noise.unidentified.values():
        typer.echo(f"No interval of a weight that needs C: {reason}.")
    weighed = rules.get(chosen.rule)
    if weighed is None:
        return
    if weighed.is_noise:
        typer.echo("These weights differ from equal weights by less than their noise.")
    order = sorted(range(len(tasks)), key=lambda place: chosen[tasks[place]], reverse=True)
    for above, below in pairwise(order):
        sure = weighed.larger[above, below].item()
        typer.echo(f"P(weight of {tasks[above]} > weight of {tasks[below]}) = {sure:.2f}")


def _span(low: float, high: float) -> str:
    return f"{low:.2f} .. {high:.2f}"
