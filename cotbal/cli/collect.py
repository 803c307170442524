"""`cotbal collect`: from result files of many tools to one score table with per-item scores."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cotbal.collect import Collected


def collect(
    run: Annotated[
        list[str],
        typer.Option(metavar="RUN=FOLDER", help="mini, and a run per task named after it; may be repeated."),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            metavar="'TASK: format=... from=... metric=...'",
            help="What a task is read from in every run's folder; once for each task and validation set.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where the score table goes.")] = Path("scores.csv"),
    items: Annotated[
        Path | None,
        typer.Option(help="Where per-item scores go; beside a.csv its a.items.json by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Collect the scores of the mini run and every probe from the files that evaluation tools wrote.

    Formats: predictions (answers scored here against truth=FILE by EM, CIDEr, Acc@IoU or mIoU), lmms-eval,
    vlmevalkit, llava, visatb, csv. A metric whose direction the format does not tell needs better=higher,
    better=reciprocal or better=complement:BOUND. An unknown option is answered with those of its format.

    The score of a task with several validation sets is their plain mean. Besides the table, scores.items.json
    holds the scores by item for `cotbal weights --items`, and scores.provenance.json the files read, with
    their SHA-256, and the matching rules.

    Example: cotbal collect --run mini=eval/mini --run VQAv2=eval/VQAv2 --run Caption=eval/Caption
    --task "VQAv2: format=lmms-eval from=vqav2_val metric=exact_match"
    --task "Caption: format=predictions from=caption.jsonl truth=val/caption.json metric=CIDEr"
    """
    from cotbal.collect import collect as collect_scores
    from cotbal.collect import parse_source
    from cotbal.files import check_outputs

    items = items or out.with_name(f"{out.stem}.items.json")
    outputs = [("--out", out), ("--out", _provenance(out)), ("--items", items)]
    sources = [parse_source(text) for text in task]
    check_outputs(outputs, [source.options.get("truth") for source in sources])
    collected = collect_scores(_folders(run), sources)
    # Which these are the formats find out.
    check_outputs(outputs, collected.provenance["files"])
    written = _write(collected, out, items)
    for doubt in collected.doubts:
        typer.echo(doubt, err=True)
    if as_json:
        summary = {
            "tasks": list(collected.scores.tasks),
            "runs": _rows(collected),
            "written": list(map(str, written)),
        }
        typer.echo(json.dumps(summary | {"provenance": collected.provenance}, indent=2, allow_nan=False))
    else:
        _print(collected)
        typer.echo(f"Wrote {', '.join(map(str, written))}.")


def _folders(pairs: list[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for pair in pairs:
        run, equals, folder = pair.partition("=")
        if not (run and equals and folder):
            raise ValueError(f"--run: expected RUN=FOLDER, got {pair!r}")
        if run in folders:
            raise ValueError(f"--run: run {run!r} stands twice; keep one")
        folders[run] = folder
    return folders


def _provenance(out: Path) -> Path:
    return out.with_name(f"{out.stem}.provenance.json")


def _write(collected: "Collected", out: Path, items: Path) -> list[Path]:
    """Write the files beside their places, then move them: a failure leaves the old ones as they were."""
    from cotbal.estimate.items_json import write_items
    from cotbal.files import write_text_atomically

    provenance = _provenance(out)
    has_items = any(collected.scores.items.values())
    if not has_items and items.exists():
        raise ValueError(
            f"{items}: no task has items, and these are of another table; move them away or give --items"
        )
    targets = [out, provenance, *([items] if has_items else [])]
    staged = {target: target.with_name(f".{target.name}.{os.getpid()}.new") for target in targets}
    try:
        collected.scores.to_csv(staged[out])
        write_text_atomically(staged[provenance], json.dumps(collected.provenance, indent=2) + "\n")
        if has_items:
            scores = collected.scores
            write_items(staged[items], scores.items, scores.clusters, scores.strata)
        for target, new in staged.items():
            os.replace(new, target)
    finally:
        for new in staged.values():
            new.unlink(missing_ok=True)
    return targets


def _rows(collected: "Collected") -> dict[str, dict[str, float]]:
    scores = collected.scores
    rows = dict(zip(("mini", *scores.tasks), [scores.mini.tolist(), *scores.probes.tolist()], strict=True))
    if scores.single_mini is not None and scores.single_full is not None:
        rows |= {"single_mini": scores.single_mini.tolist(), "single_full": scores.single_full.tolist()}
    return {run: dict(zip(scores.tasks, row, strict=True)) for run, row in rows.items()}


def _print(collected: "Collected") -> None:
    from cotbal.report.tables import print_columns

    rows, tasks = _rows(collected), collected.scores.tasks
    columns = {task: [f"{row[task]:.4f}" for row in rows.values()] for task in tasks}
    print_columns("Scores as measured", list(rows), columns, "run")
    for task, told in collected.provenance["tasks"].items():
        for each in told:
            n_items = "no items" if each["items"] is None else f"{each['items']} items"
            better = collected.scores.transforms.get(task, "higher is better")
            details = [n_items, better, *(f"{name}={value}" for name, value in each["rules"].items())]
            typer.echo(f"{task}: {each['metric']} of {each['from']} ({', '.join(details)})")
