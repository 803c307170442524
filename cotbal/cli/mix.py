"""`cotbal prepare mix`: prepared tasks as one mixture, with mini subsets and probes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from cotbal.cli.preparing import Form, FormOption, Json, Seed, reading


def mix(
    data: Annotated[Path, typer.Option(help="The folder of prepared tasks.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the mixture goes.")] = Path("mixture"),
    task: Annotated[
        list[str] | None,
        typer.Option(help="These tasks alone; may be repeated. By default all but RefCOCO+."),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            help="A task of a fixed weight, in the mixture alone; ShareGPT by default. May be repeated."
        ),
    ] = None,
    ratio: Annotated[str, typer.Option(help="Share of a task's records in its mini subset.")] = "1/32",
    probes: Annotated[bool, typer.Option(help="Write the probes' mixtures, 1.2 times the data.")] = True,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    as_json: Json = False,
) -> None:
    """Put prepared tasks together: mixture, mini subsets, probes' mixtures, held-out questions.

    Prints the sizes, beside those of the paper's table 1 where one of its tasks is there. The mini
    subsets are those that `cotbal plan` takes from the same files; it also writes the probes' mixtures
    itself: give --no-probes where you go on with it.

    Example: cotbal prepare mix --data data --out mixture
    """
    from cotbal.data.mix import find_prepared, write_mix

    share, found = _share(ratio), find_prepared(data, task or ())
    with reading(False) as inputs:
        content = write_mix(
            found, out, inputs, ratio=share, seed=seed, form=form.value, fixed=fixed, probes=probes
        )
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        _print_mix(content, out)


def _share(text: str) -> Fraction:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise ValueError(f"--ratio: expected a share above 0 and at most 1, such as 1/32, got {text!r}")
    return share


def _print_mix(content: dict[str, Any], out: Path) -> None:
    from cotbal.data.table1 import TABLE, TOTAL_THOUSANDS
    from cotbal.report.tables import print_columns

    tasks = content["tasks"]
    beside = any(name in TABLE for name in tasks)
    names = [*(TABLE if beside else ()), *(name for name in tasks if name not in TABLE)]
    have = {name: tasks.get(name) for name in names}

    def cells(key: str) -> list[str]:
        return [f"{each[key]:,}" if each and each[key] is not None else "-" for each in have.values()]

    total = sum(each["records"] for each in tasks.values())
    paper = [*(f"{TABLE[n].thousands}k" if n in TABLE else "-" for n in names), f"{TOTAL_THOUSANDS}k"]
    columns = {
        "records": [*cells("records"), f"{total:,}"],
        **({"paper": paper} if beside else {}),
        "turns": [*cells("turns"), f"{sum(each['turns'] for each in tasks.values()):,}"],
        "mini": [*cells("mini"), f"{sum(each['mini'] or 0 for each in tasks.values()):,}"],
        "to score": [
            *(f"{sum(each['held_out'].values()):,}" if each else "-" for each in have.values()),
            f"{sum(sum(each['held_out'].values()) for each in tasks.values()):,}",
        ],
    }
    title = "The mixture beside the paper's table 1" if beside else "The mixture"
    print_columns(title, [*names, "total"], columns)
    typer.echo(f"Wrote {len(content['files'])} training files and the held-out questions under {out}.")
