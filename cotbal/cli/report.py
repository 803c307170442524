"""`cotbal report`: the page and figures of a result, or the paper's tables computed again."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.report.paper_tables import PaperRow


def report(
    results: Annotated[Path | None, typer.Argument(help="The results.json of a finished demo.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page and figures; that of the results by default.")
    ] = None,
    paper_tables: Annotated[
        bool,
        typer.Option(
            "--paper-tables", help="Print dI% and dE% of the paper's tables 2 and 4, computed again."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Write report.html and the figures of a result, or print the paper's tables, printed and computed.

    Exit code 1 tells that a row of the paper came out differently.

    Example: cotbal report demo/results.json --out report
    """
    if paper_tables == (results is not None):
        raise ValueError("report: expected either RESULTS.json or --paper-tables, got both or neither")
    if paper_tables:
        _paper_tables(as_json)
    else:
        assert results is not None
        _page(results, out or results.parent, as_json)


def _page(results: Path, folder: Path, as_json: bool) -> None:
    from cotbal.report.figures import write_figures
    from cotbal.report.page import write_page

    content = _load(results)
    try:
        page = write_page(content, folder)
        figures = write_figures(content, folder / "figures")
    except KeyError as error:
        raise ValueError(f"{results}: expected the results of `cotbal demo`, got none for {error}") from error
    if as_json:
        written = {"page": str(page), "figures": {name: str(path) for name, path in figures.items()}}
        typer.echo(json.dumps(written, indent=2))
    else:
        for path in (page, *figures.values()):
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
    from rich.console import Console

    from cotbal.report.tables import print_columns

    columns = {
        "table": [row.table.removeprefix("table") for row in rows],
        "dI%\nprinted": [f"{row.printed_delta_i:.2f}" for row in rows],
        "dI%\ncomputed": [f"{row.delta_i:.2f}" for row in rows],
        "dE%\nprinted": [f"{row.printed_delta_e:.2f}" for row in rows],
        "dE%\ncomputed": [f"{row.delta_e:.2f}" for row in rows],
        "agrees": ["yes" if row.agrees else "NO" for row in rows],
    }
    print_columns(
        Console(), "Improvement over single-task models", [row.method for row in rows], columns, "method"
    )
    typer.echo(f"{sum(row.agrees for row in rows)} of {len(rows)} rows agree to two decimals.")
