"""`cotbal compare`: final models side by side, of a project or from files, and the paper's tables for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotbal.cli.plan import Budget, Json, Mode, Precise, StepMatched, load
from cotbal.cli.report import YAML, pages
from cotbal.cli.train import DryRun, Methods, print_left, show_left, tell_missing
from cotbal.cli.watching import watched

if TYPE_CHECKING:
    from cotbal.project.config import Project

FIGURE_1B = "figure1b"
TABLES = ("table2", "table3")
BASELINE = "STL"


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="The YAML of an estimate; or scores of final models: finals.json, CSV (rows: models)."
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            help="With a YAML, train and score what is missing of: table2 (STL, EW, TLA, RLW, DWA, IGBv1, "
            "CoTBal), table3 (T = 2, 1, 0.5; the five rules; precise and real difficulty), figure1b (score "
            "by share of the data)."
        ),
    ] = None,
    method: Methods = None,
    baseline: Annotated[str, typer.Option(help="What dI and dE are relative to.")] = BASELINE,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Train nothing: compare what is finished of the suite.")
    ] = False,
    items: Annotated[
        Path | None, typer.Option(help="With one CSV: JSON of per-item scores by row, for intervals.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for page, table and figures; by default `compare` in the estimate's, with files "
            "this folder."
        ),
    ] = None,
    precise: Precise = False,
    step_matched: StepMatched = False,
    mode: Mode = None,
    budget: Budget = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put final models side by side: scores, dI and dE against a baseline with intervals; write a page.

    With a YAML and neither --suite nor --method: every model that `cotbal train` has made. With --suite or
    --method what is missing is trained first. A CSV has the header run,TASK,TASK,... and a row per model; a
    task with several test sets is TASK/SET.

    Example: cotbal compare estimate.yaml --suite table2
    """
    from cotbal.files import check_outputs

    if suite is not None and suite not in (*TABLES, FIGURE_1B):
        raise ValueError(f"--suite: expected {', '.join(TABLES)} or {FIGURE_1B}, got {suite!r}")
    if [file.suffix.lower() in YAML for file in files] == [True]:
        if items is not None:
            raise ValueError("--items: only with a CSV; the models of a YAML have theirs")
        from cotbal.project.data import data_files

        project = load(files[0], precise, step_matched, mode, budget)
        folder = out or project.out / "compare"
        check_outputs(pages(folder, suite or "compare"), [files[0], *data_files(project)])
        if suite != FIGURE_1B:
            _project(project, suite, method or [], baseline, no_run, dry_run, folder, as_json)
            return
        if method or baseline != BASELINE:
            which = "--method" if method else "--baseline"
            raise ValueError(f"{which}: not with --suite {FIGURE_1B}, which compares no methods")
        _figure_1b(project, no_run, dry_run, folder, as_json)
        return
    options = {"--suite": suite, "--method": method, "--precise": precise, "--step-matched": step_matched}
    options |= {"--mode": mode, "--budget": budget, "--dry-run": dry_run, "--no-run": no_run}
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{', '.join(given)}: only with the YAML of one estimate, not with {files[0]}")
    check_outputs(pages(out or Path(), "compare"), [*files, items])
    _of_files(files, items, baseline, out or Path(), as_json)


def _of_files(files: Sequence[Path], items: Path | None, baseline: str, out: Path, as_json: bool) -> None:
    from cotbal.compare import compare as side_by_side
    from cotbal.compare import merged, read_finals

    if items is not None and len(files) > 1:
        raise ValueError("--items: expected one CSV, got several files")
    finals = merged({label: read_finals(file, items) for label, file in _labels(files).items()})
    _write(side_by_side(finals, baseline=baseline), out, "compare", as_json)


def _labels(files: Sequence[Path]) -> dict[str, Path]:
    """The files by what tells their paths apart: `a/out/finals.json` and `b/out/finals.json` are a and b."""
    parts = [list(file.absolute().with_suffix("").parts) for file in files]
    for end in (0, -1):
        while len(parts) > 1 and all(each[1:] and each[end] == parts[0][end] for each in parts):
            for each in parts:
                del each[end]
    names = ["/".join(each) for each in parts] if len(files) > 1 else [files[0].stem]
    if len(set(names)) < len(files):
        raise ValueError(f"FILES: expected different files, got {', '.join(map(str, files))}")
    return dict(zip(names, files, strict=True))


def _project(
    project: Project,
    suite: str | None,
    method: Sequence[str],
    baseline: str,
    no_run: bool,
    dry_run: bool,
    folder: Path,
    as_json: bool,
) -> None:
    from cotbal.compare import compare as side_by_side
    from cotbal.project.data import prepare
    from cotbal.project.finals import collected, known_methods, run_finals, same_models
    from cotbal.project.methods import parse_method, parse_methods
    from cotbal.project.work import store_of

    asked = parse_methods([*([suite] if suite else []), *method], project)
    methods = [*([parse_method(baseline, project)] if asked else []), *asked]
    if dry_run:
        show_left(project, methods or known_methods(project), as_json)
        return
    lost = False
    if methods and not no_run:
        with watched(project) as listener:
            outcome = run_finals(project, methods, listener)
        finals, lost = outcome.finals, bool(outcome.missing)
        tell_missing(outcome)
    else:
        methods = methods or known_methods(project)
        if not methods:
            raise ValueError(
                "there are no final models yet: `cotbal train` makes them, or give --suite or --method"
            )
        finals = collected(project, prepare(project), methods, store_of(project))
    base = parse_method(baseline, project).name
    names = list(dict.fromkeys(method.name for method in methods))
    content = side_by_side(finals, names, baseline=base, same=same_models(methods), title=suite or "")
    _write(content, folder, suite or "compare", as_json)
    if lost:
        raise typer.Exit(1)


def _figure_1b(project: Project, no_run: bool, dry_run: bool, folder: Path, as_json: bool) -> None:
    from cotbal.compare import shares_content
    from cotbal.project.final_plan import outlined
    from cotbal.project.rungs import measured, run_rungs, rung_data, rung_plan
    from cotbal.project.work import store_of

    if dry_run:
        data = rung_data(project)
        print_left(outlined(project, data, rung_plan(project, data), store_of(project)), as_json)
        return
    if no_run:
        _write(
            shares_content(measured(project, rung_data(project), store_of(project))),
            folder,
            FIGURE_1B,
            as_json,
        )
        return
    with watched(project) as listener:
        outcome = run_rungs(project, listener)
    tell_missing(outcome)
    _write(shares_content(outcome.rungs), folder, FIGURE_1B, as_json)
    if outcome.missing:
        raise typer.Exit(1)


def _write(content: Mapping[str, Any], folder: Path, name: str, as_json: bool) -> None:
    from cotbal.report.comparison import write_comparison

    written = write_comparison(content, folder, name)
    if as_json:
        files = {key: str(path) for key, path in written.items()}
        typer.echo(json.dumps({**content, "files": files}, indent=1))
        return
    _print(content)
    for path in written.values():
        typer.echo(f"Wrote {path}")


def _print(content: Mapping[str, Any]) -> None:
    from cotbal.report import comparison_tables as tables
    from cotbal.report.comparison import heading
    from cotbal.report.tables import print_columns

    shares = content["kind"] == "shares"
    found = [tables.shares_table(content)] if shares else tables.finals_tables(content)
    for table in found:
        names = [row[0] for row in table.rows]
        # In a terminal the scores alone; their intervals are in the page.
        cells = [[c.split("\n")[0] for c in row] if table.name == "scores" else row for row in table.rows]
        columns = {
            title.replace(" (", "\n("): [row[place].replace("\n", " ") for row in cells]
            for place, title in enumerate(table.head)
            if place
        }
        title = heading(content) if table is found[0] else f"Improvement over {content['baseline']}"
        print_columns(title, names, columns, table.head[0])
    for line in content.get("statements", []):
        typer.echo(f"- {line}")
