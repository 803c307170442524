"""`cotbal weights`: from a score table to contribution, difficulty, every rule's weights and weights.json."""

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.estimate.no_probes import TwoModels
    from cotbal.estimate.scores import Scores
    from cotbal.estimate.uncertainty import Uncertainty
    from cotbal.weights import TaskWeights

ITEMS_ALONE = "The intervals are over the validation items: of another training they tell nothing."
EQUAL_AS_MINI = (
    "The model of equal weights is one training under all seeds: in the intervals its noise between "
    "trainings is taken to be that of the mini run."
)
SHRUNK = "C is as measured; its means, D and the weights are pulled to their mean by their reliability."


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
    Where lower is better, a row `transform` has `complement: 1` (1 - m) or `reciprocal` (1/m) in that column.

    Example: cotbal weights scores.csv --items items.json --fixed chat=1.0 --out weights.json
    """
    from cotbal.estimate.doubts import doubts
    from cotbal.estimate.no_probes import TwoModels
    from cotbal.estimate.seeds import check_alike
    from cotbal.files import check_outputs

    check_outputs([("--out", out)], [*scores, *(items or [])])
    stated = _fixed(fixed or [])
    tables = _read(scores, items or [])
    check_alike(tables)
    for doubt in doubts(dict(zip(map(str, scores), tables, strict=True))):
        typer.echo(f"{scores[0]}: {doubt}" if len(scores) == 1 else doubt, err=True)
    models = [table for table in tables if isinstance(table, TwoModels)]
    if models:
        if shrink:
            raise ValueError("--shrink: a table of mode no-probes has no contribution to pull; leave it out")
        if precise:
            raise ValueError(
                "--precise: the difficulty of a table of mode no-probes is that of its rows mini and equal; "
                "leave it out"
            )
        _without_probes(TwoModels.pooled(models), rule, temperature, alpha, stated, out, as_json)
        return
    options: dict[str, Any] = {
        "temperature": temperature,
        "alpha": alpha,
        "fixed": stated,
        "precise": precise,
        "on_unidentified": on_unidentified,
        "shrink": shrink,
    }
    _with_probes(tables, rule, options, out, as_json)


def _read(paths: list[Path], items: list[Path]) -> list[Any]:
    """The tables, all of one mode, with their items."""
    from cotbal.estimate.doubts import rows_of
    from cotbal.estimate.items_json import read_items
    from cotbal.estimate.no_probes import TwoModels
    from cotbal.estimate.scores import Scores

    files = [read_items(path) for path in items]
    if files and len(files) != len(paths):
        raise ValueError(f"--items: expected one for each of {len(paths)} score tables, got {len(files)}")
    tables = []
    for place, path in enumerate(paths):
        of_table = files[place]._asdict() if files else {}
        tables.append(TwoModels.from_csv(path, **of_table) or Scores.from_csv(path, **of_table))
    if len({type(table) for table in tables}) > 1:
        raise ValueError("SCORES: expected tables of one mode, got some with probes and some without")
    for place, table in enumerate(tables):
        for other in range(place):
            # Two trainings never agree in every score: the noise between them would seem to be none.
            if rows_of(table) == rows_of(tables[other]):
                raise ValueError(
                    "SCORES: expected a table of its own for every seed, got the same scores in "
                    f"{paths[other]} and {paths[place]}; give each table once, or train under another seed"
                )
    return tables


def _with_probes(
    tables: "list[Scores]", rule: str, options: dict[str, Any], out: Path, as_json: bool
) -> None:
    from cotbal.estimate.few_items import few_items
    from cotbal.estimate.rules import estimate_weights, seed_spread, weights_by_rule
    from cotbal.estimate.uncertainty import uncertainty
    from cotbal.report.findings import n_items, no_intervals
    from cotbal.report.noise import FROM_EQUAL

    by_rule, missing = weights_by_rule(tables, **options)
    if rule not in by_rule:
        # Asked for by name it raises: no such rule, or why the scores allow none.
        estimate_weights(tables, rule=rule, **options)
    chosen = by_rule[rule]
    summary = _summary(tables, chosen, by_rule, missing)
    found: dict[str, Any] = {}
    noise = None
    if len(tables) > 1:
        found["seed_sd"] = seed_spread(tables, rule, **options)
    reason = no_intervals(tables)
    if reason is None:
        unasked = ("fixed", "on_unidentified", "shrink")
        noise = uncertainty(tables, **{name: options[name] for name in options if name not in unasked})
        found["uncertainty"] = noise.to_json()
    chosen = dataclasses.replace(chosen, provenance={**chosen.provenance, **found})
    chosen.save(out)
    if as_json:
        typer.echo(json.dumps(summary | found, indent=2, allow_nan=False))
        return
    _print(summary | found)
    if tables[0].equal is not None and not options["precise"]:
        typer.echo(FROM_EQUAL)
    if noise is not None:
        _print_noise(noise, chosen, few_items(n_items(tables)))
    elif any(table.items for table in tables):
        typer.echo(f"There are no intervals, as {reason}.")
    typer.echo(f"Wrote {out} (rule {rule}).")


def _without_probes(
    pair: "TwoModels",
    rule: str,
    temperature: float,
    alpha: float,
    fixed: dict[str, float],
    out: Path,
    as_json: bool,
) -> None:
    from cotbal.report.findings import no_intervals
    from cotbal.report.tables import print_columns

    if rule != "cotbal":
        raise ValueError(f"--rule: expected cotbal for a table of mode no-probes, got {rule}")
    found = pair.weights(temperature=temperature, alpha=alpha, fixed=fixed)
    reason = no_intervals(pair.by_seed or [pair])
    drawn = None if reason else pair.intervals(temperature=temperature, alpha=alpha)
    undefined = {} if reason else pair.undefined()
    spans = None if drawn is None else drawn.tolist()
    kept = {} if spans is None else {"intervals": dict(zip(pair.tasks, spans, strict=True))}
    spread = pair.seed_spread(temperature=temperature, alpha=alpha, fixed=fixed)
    kept |= {"seed_sd": spread} if spread else {}
    found = dataclasses.replace(found, provenance={**found.provenance, **kept})
    found.save(out)
    if as_json:
        content: dict[str, Any] = {"mode": "no-probes", "tasks": list(pair.tasks)}
        content |= {"difficulty": pair.difficulty().tolist(), "weights": {rule: dict(found)}}
        content |= {"intervals": spans, "undefined": undefined, "fixed": found.fixed}
        content |= {"seed_sd": spread} if pair.by_seed else {}
        typer.echo(json.dumps(content, indent=2, allow_nan=False))
        return
    columns = {
        "D": [f"{value:.4f}" for value in pair.difficulty().tolist()],
        "weight": [f"{found[task]:.4f}" for task in pair.tasks],
    }
    if spans is not None:
        columns["95 % interval"] = [_span(*ends) for ends in spans]
    if spread:
        columns["sd over seeds"] = [f"{spread[task]:.4f}" for task in pair.tasks]
    print_columns("Without probes: the contribution's weights are 1", list(pair.tasks), columns)
    if spans is not None:
        for line in _noise_of(pair):
            typer.echo(line)
    if reason and any(table.items for table in pair.by_seed or [pair]):
        typer.echo(f"There are no intervals, as {reason}.")
    for undrawn in undefined.values():
        typer.echo(f"No interval of a weight: {undrawn}.")
    typer.echo(f"Wrote {out} (rule {rule}).")


def _noise_of(pair: "TwoModels") -> list[str]:
    """What the intervals of two models hold."""
    from cotbal.estimate.few_items import alike, few_items
    from cotbal.estimate.few_seeds import few_seeds
    from cotbal.report.findings import n_items

    of_seeds = [EQUAL_AS_MINI] if pair.equal_is_one_training else []
    of_seeds = [*few_seeds(len(pair.by_seed)), *of_seeds] if pair.by_seed else [ITEMS_ALONE]
    scored = [table.items for table in pair.by_seed or [pair]]
    found = {
        f"{task} in row {run}": [score for items in scored for score in items[run][task]]
        for run in ("mini", "equal")
        for task in pair.tasks
    }
    same = alike({name: (min(scores), max(scores)) for name, scores in found.items()})
    return of_seeds + few_items(n_items(pair.by_seed or [pair])) + same


def _fixed(pairs: list[str]) -> dict[str, float]:
    fixed: dict[str, float] = {}
    for pair in pairs:
        # As in the cells of a score table.
        task, equals, weight = map(str.strip, pair.rpartition("="))
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
    tables: "list[Scores]",
    chosen: "TaskWeights",
    by_rule: dict[str, "TaskWeights"],
    missing: dict[str, str],
) -> dict[str, Any]:
    from cotbal.estimate.table_signals import TableSignals

    C = TableSignals(tables).contribution("drop")
    signals = {
        name: by_rule[name].provenance[name] if name in by_rule else None
        for name in ("one2all", "all2one", "difficulty")
    }
    return {
        "tasks": list(tables[0].tasks),
        "contribution": [[None if math.isnan(cell) else cell for cell in row] for row in C.tolist()],
        **signals,
        "unidentified": chosen.provenance["unidentified"],
        "weights": {rule: dict(estimated) for rule, estimated in by_rule.items()},
        "not_available": missing,
        "rule": chosen.rule,
        "fixed": chosen.fixed,
        "shrink": chosen.provenance["shrink"],
    }


def _print(summary: dict[str, Any]) -> None:
    from cotbal.report.tables import print_columns

    def spell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    tasks = summary["tasks"]
    rows = summary["contribution"]
    print_columns(
        "Contribution C: the row's task to the column's task (Eq. 3)",
        tasks,
        {task: [spell(row[place]) for row in rows] for place, task in enumerate(tasks)},
    )
    titles = {"one2all": "C one-to-all", "all2one": "C all-to-one", "difficulty": "D"}
    signals = {
        title: [spell(value) for value in summary[key] or [None] * len(tasks)]
        for key, title in titles.items()
    }
    print_columns("Mean contribution to and from the others (Eq. 4, 6), difficulty (Eq. 9)", tasks, signals)
    names = [*tasks, *summary["fixed"]]
    columns = {rule: [spell(by_task[name]) for name in names] for rule, by_task in summary["weights"].items()}
    if spread := summary.get("seed_sd"):
        columns[f"sd over seeds, {summary['rule']}"] = [spell(spread[name]) for name in names]
    print_columns("Weights by rule", names, columns)
    if summary["shrink"]:
        typer.echo(SHRUNK)
    if summary["unidentified"]:
        typer.echo(f"Not identified: {', '.join(summary['unidentified'])}.")
    for reason in dict.fromkeys(summary["not_available"].values()):
        rules = [rule for rule, its_reason in summary["not_available"].items() if its_reason == reason]
        typer.echo(f"No weights by {', '.join(rules)}: {reason}.")


def _print_noise(noise: "Uncertainty", chosen: "TaskWeights", few: list[str]) -> None:
    from cotbal.estimate.few_seeds import few_seeds
    from cotbal.report.noise import ONE_EQUAL, ONE_SEED, PULLED, scored_alike
    from cotbal.report.tables import print_columns

    tasks = noise.tasks
    C = noise.contribution
    low, high, bounded = C.low.tolist(), C.high.tolist(), C.bounded.tolist()
    columns = {
        task: [_span(low[i][j], high[i][j]) if bounded[i][j] else "unbounded" for i in range(len(tasks))]
        for j, task in enumerate(tasks)
    }
    percent = f"{100 * noise.level:g} % intervals"
    print_columns(f"Contribution C, {percent} (Fieller)", tasks, columns)
    of_task = {}
    if noise.difficulty is not None:
        of_task["D"] = [_span(*ends) for ends in noise.difficulty.T.tolist()]
    rules = {name: found for name, found in noise.rules.items() if found is not None}
    for name, found in rules.items():
        of_task[name] = [_span(*ends) for ends in zip(found.low.tolist(), found.high.tolist(), strict=True)]
    drawn = "the items" if noise.n_seeds == 1 else "items and seeds"
    print_columns(f"Difficulty and weights, {percent} (bootstrap over {drawn})", tasks, of_task)
    if chosen.provenance["shrink"]:
        typer.echo(PULLED)
    if noise.n_seeds == 1:
        typer.echo(ONE_SEED)
    for line in [*few_seeds(noise.n_seeds), *few, *scored_alike(tasks, noise.to_json())]:
        typer.echo(line)
    if noise.equal_is_one_training:
        typer.echo(ONE_EQUAL)
    for reason in noise.unidentified.values():
        typer.echo(f"No interval of a weight that needs C: {reason}.")
    for reason in noise.undefined.values():
        typer.echo(f"No interval of a weight that needs D: {reason}.")
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
    return "-" if math.isnan(low) else f"{low:.2f} .. {high:.2f}"
