"""`cotbal report`: the page, card and figures of an estimate, or the paper's tables computed again."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.project.config import Project
    from cotbal.project.data import Data
    from cotbal.report.paper_tables import PaperRow
    from cotbal.runs.plan import Plan
    from cotbal.runs.store import Store


YAML = (".yaml", ".yml")


def report(
    file: Annotated[
        Path | None,
        typer.Argument(help="The YAML of an estimate, a score table (CSV), or the results.json of a demo."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for page and figures; by default `report` in the estimate's, else FILE's."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="With a CSV: JSON of per-item scores, for intervals.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="With a CSV: the rule in use; cotbal by default.")] = None,
    temperature: Annotated[float | None, typer.Option(help="With a CSV: T, 0.5 by default.")] = None,
    alpha: Annotated[float | None, typer.Option(help="With a CSV: alpha, 0.5 by default.")] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=WEIGHT", help="With a CSV: a task of a stated weight; may be repeated."),
    ] = None,
    precise: Annotated[
        bool, typer.Option("--precise", help="Difficulty from the runs on each task alone.")
    ] = False,
    step_matched: Annotated[
        bool, typer.Option("--step-matched", help="With a YAML whose runs were made so.")
    ] = False,
    mode: Annotated[
        str | None, typer.Option(help="With a YAML whose runs were made so: full or cheap.")
    ] = None,
    on_unidentified: Annotated[
        str | None, typer.Option(help="With a CSV: raise (the default) or drop, as in `cotbal weights`.")
    ] = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="With a CSV and its --items: as in `cotbal weights`.")
    ] = False,
    paper_tables: Annotated[
        bool,
        typer.Option(
            "--paper-tables", help="Print dI% and dE% of the paper's tables 2 and 4, computed again."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Write report.html, report.json, report.md and the figures of an estimate, at any time while it runs.

    With --paper-tables print the paper's tables, printed and computed; exit code 1 tells that a row differs.

    Example: cotbal report estimate.yaml
    """
    if paper_tables == (file is not None):
        raise ValueError("report: expected either FILE or --paper-tables, got both or neither")
    if paper_tables:
        _paper_tables(as_json)
        return
    assert file is not None
    given = {
        "items": items,
        "rule": rule,
        "temperature": temperature,
        "alpha": alpha,
        "fixed": fixed,
        "on_unidentified": on_unidentified,
        "shrink": shrink or None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    from cotbal.files import check_outputs

    kind = file.suffix.lower()
    if (step_matched and kind not in YAML) or (precise and kind == ".json"):
        raise ValueError(
            f"--step-matched, --precise: {file} says itself how its runs were made; leave them out"
        )
    if mode is not None and kind not in YAML:
        raise ValueError(f"--mode: only with a YAML; {file} says itself how its runs were made")
    if options and kind != ".csv":
        names = ", ".join("--" + name.replace("_", "-") for name in options)
        raise ValueError(f"{names}: only with a CSV of scores; {file} says it itself")
    if shrink and items is None:
        raise ValueError("--shrink: expected --items, whose noise says how far to pull, got none")
    if kind == ".json":
        _page(file, out or file.parent, as_json)
    elif kind == ".csv":
        check_outputs(pages(out or file.parent, "report"), [file, items])
        _write(_of_csv(file, {**options, "precise": precise}), None, out or file.parent, as_json)
    elif kind in YAML:
        _project(file, out, as_json, precise, step_matched, mode)
    else:
        raise ValueError(f"FILE: expected .yaml, .csv or .json, got {file}")


def pages(folder: Path, name: str) -> list[tuple[str, Path]]:
    """The files of a report or a comparison but for its figures, each with the option that it comes from."""
    return [("--out", folder / f"{name}.{ending}") for ending in ("html", "json", "md")]


def _of_csv(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    from cotbal.cli.weights import _fixed
    from cotbal.estimate.items_json import read_items
    from cotbal.estimate.scores import Scores
    from cotbal.files import writable
    from cotbal.report.findings import Settings, estimate_results

    found = read_items(options.pop("items"))._asdict() if "items" in options else {}
    table = Scores.from_csv(file, **found)
    settings = Settings(**{**options, "fixed": _fixed(options.get("fixed", []))})
    return estimate_results([table], settings, source=f"scores in {writable(file.name)}")


def _project(
    file: Path, out: Path | None, as_json: bool, precise: bool, step_matched: bool, mode: str | None
) -> None:
    from cotbal.cli.plan import load, prepared
    from cotbal.estimate.recipe import MODES
    from cotbal.files import check_outputs
    from cotbal.project.account import account
    from cotbal.project.data import data_files
    from cotbal.project.outcome import other_weights
    from cotbal.project.work import store_of

    project = load(file, precise, step_matched, mode)
    folder = out or project.out / "report"
    check_outputs(pages(folder, "report"), [file, *data_files(project)])
    if MODES[project.mode].share is None:
        raise ValueError(
            f"{file}: mode {project.mode} measures no contribution to report; "
            f"cotbal weights {project.out / 'scores.csv'} shows its weights"
        )
    data, plan = prepared(project)
    store = store_of(project)
    results, refused = _results(project, data, plan, store)
    runs = account(project, plan, store) | {"refused": refused}
    try:
        finals = _finals(project, data, store)
    except ValueError as error:
        # The page shows all else.
        finals = None
        typer.echo(f"No final models on the page: {error}", err=True)
    _write(results, runs, folder, as_json, finals)
    chosen = results["by_seed"]["0"]["weights"].get(project.rule) if results else None
    if other_weights(project.out / "weights.json", chosen or {}) is not None:
        typer.echo(
            f"{project.out / 'weights.json'} holds other weights than this page, as of an earlier start or "
            "of other options; `cotbal run` with the options of this call writes those of the page",
            err=True,
        )


def _results(
    project: "Project", data: "Data", plan: "Plan", store: "Store"
) -> tuple[dict[str, Any] | None, list[str]]:
    """The results of the seeds that are finished, None where there are none; and why others allow none."""
    from cotbal.project.outcome import algorithm
    from cotbal.project.outline import recorded
    from cotbal.project.recipe import recipes
    from cotbal.report.findings import Settings, estimate_results

    found = {name: record.result for name, record in recorded(plan, store).items()}
    tables, refused = {}, []
    for seed, recipe in recipes(project, data).items():
        method = algorithm(recipe)
        if all(name in found for run in method.estimation_runs() for name in recipe.scored_by(run)):
            try:
                tables[seed] = method.scores(found)
            except ValueError as error:
                # Scored on other items: the page shows all else.
                refused.append(f"No weights for seed {seed}: {error}.")
    if not tables:
        return None, refused
    settings = Settings(
        project.rule,
        project.temperature,
        project.alpha,
        project.fixed,
        project.precise,
        project.on_unidentified,
        project.shrink,
        {name: task.metric for name, task in project.tasks.items()},
        project.step_matched,
        project.mode == "cheap",
    )
    source = _seeds(project.seeds, list(tables))
    try:
        results = estimate_results(list(tables.values()), settings, source=source)
    except ValueError as error:
        return None, [*refused, f"No weights for the mean over seeds: {error}."]
    results["statements"] += refused
    return results, refused


def _finals(project: "Project", data: "Data", store: "Store") -> dict[str, Any] | None:
    """The comparison of the final models, None where no method has all its scores."""
    from cotbal.compare import compare
    from cotbal.project.finals import collected, known_methods, same_models

    methods = known_methods(project)
    finals = collected(project, data, methods, store)
    if all(finals.missing(method.name) for method in methods):
        return None
    return compare(finals, [method.name for method in methods], same=same_models(methods))


def _seeds(asked: list[int], measured: list[int]) -> str:
    names = f"seed{'s' * (len(measured) > 1)} {', '.join(map(str, measured))}"
    return (
        names
        if len(asked) == len(measured)
        else f"{names} of {', '.join(map(str, asked))}, the others without a table of scores"
    )


def _write(
    results: dict[str, Any] | None,
    runs: dict[str, Any] | None,
    folder: Path,
    as_json: bool,
    finals: dict[str, Any] | None = None,
) -> None:
    """Writes report.html, report.json, report.md and, where there are results, the figures."""
    from cotbal.files import write_json, write_text_atomically
    from cotbal.report.card import card
    from cotbal.report.figures import write_figures
    from cotbal.report.page import write_page

    content = {"schema_version": 1, "kind": "estimate", **(results or {}), "runs": runs, "finals": finals}
    page = write_page(results, folder, runs=runs, finals=finals)
    files = {
        "json": write_json(folder / "report.json", content),
        "card": write_text_atomically(folder / "report.md", card(results, runs, finals)),
    }
    figures = {} if results is None else write_figures(results, folder / "figures")
    if not as_json and results is not None:
        for statement in results["statements"]:
            typer.echo(statement)
    elif not as_json:
        for reason in (runs or {}).get("refused", []):
            typer.echo(reason)
        typer.echo("There are no weights yet; the page shows the state of the runs.")
    _tell(page, figures, as_json, files)


def _page(results: Path, folder: Path, as_json: bool) -> None:
    from cotbal.report.figures import write_figures
    from cotbal.report.page import write_page

    content = _load(results)
    # A report of runs alone has no results yet.
    found = None if "by_seed" not in content and content.get("runs") else content
    try:
        page = write_page(found, folder, runs=content.get("runs"), finals=content.get("finals"))
        figures = {} if found is None else write_figures(found, folder / "figures")
    except KeyError as error:
        raise ValueError(
            f"{results}: expected the results of `cotbal demo`, got none for {error}; of weights.json give "
            "the CSV or the YAML that they come from"
        ) from error
    _tell(page, figures, as_json)


def _tell(page: Path, figures: dict[str, Path], as_json: bool, files: dict[str, Path] | None = None) -> None:
    others = files or {}
    if as_json:
        written = {
            "page": str(page),
            **{name: str(path) for name, path in others.items()},
            "figures": {name: str(path) for name, path in figures.items()},
        }
        typer.echo(json.dumps(written, indent=2))
    else:
        for path in (page, *others.values(), *figures.values()):
            typer.echo(f"Wrote {path}")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected the results of `cotbal demo`, got a {type(content).__name__}")
    return content


def _paper_tables(as_json: bool) -> None:
    from cotbal.report.paper_tables import paper_rows

    rows = paper_rows()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) | {"agrees": row.agrees} for row in rows], indent=2))
    else:
        _print(rows)
    if not all(row.agrees for row in rows):
        raise typer.Exit(1)


def _print(rows: "list[PaperRow]") -> None:
    from cotbal.report.tables import print_columns

    columns = {
        "table": [row.table.removeprefix("table") for row in rows],
        "dI%\nprinted": [f"{row.printed_delta_i:.2f}" for row in rows],
        "dI%\ncomputed": [f"{row.delta_i:.2f}" for row in rows],
        "dE%\nprinted": [f"{row.printed_delta_e:.2f}" for row in rows],
        "dE%\ncomputed": [f"{row.delta_e:.2f}" for row in rows],
        "agrees": ["yes" if row.agrees else "NO" for row in rows],
    }
    print_columns("Improvement over single-task models", [row.method for row in rows], columns, "method")
    typer.echo(f"{sum(row.agrees for row in rows)} of {len(rows)} rows agree to two decimals.")
