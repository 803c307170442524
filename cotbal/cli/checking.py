"""What `cotbal data check` shows: bars while it works, tables and findings, or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cotbal.data.check.run import Check, Source
    from cotbal.data.check.schema import Settings

# Of each kind on the terminal.
SHOWN = 5
_BLOCKS = "·▁▂▃▄▅▆▇█"


def run_check(
    sources: Sequence[Source], settings: Settings, images: Path | None, workers: int, accept: Sequence[str]
) -> Check:
    """The finished check of the files, with a bar for each on a terminal."""
    from cotbal.cli.preparing import reading
    from cotbal.data.check.findings import KINDS
    from cotbal.data.check.run import Check

    if wrong := [kind for kind in accept if kind not in KINDS]:
        raise ValueError(f"--accept: expected one of {', '.join(KINDS)}, got {wrong[0]!r}")
    with reading(False) as inputs:
        found = Check(sources, inputs, settings, images=images, workers=workers, accepted=accept)
        found.run()
    return found


def check_page(html: Path) -> None:
    """Raises what writing the page would end in: a package that is missing, a folder that takes no file.

    Raises:
        ValueError: another file than a page would be lost.
    """
    import cotbal.report.check_page  # noqa: F401
    from cotbal.files import check_writable

    if html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html: expected the name of a page, as in check.html, got {html}")
    check_writable(html)
    if html.exists() and not _is_page(html):
        raise ValueError(
            f"--html: expected a page or no file yet, got {html}, which is no HTML; name another"
        )


def _is_page(path: Path) -> bool:
    """Whether a file holds HTML, or nothing that could be lost."""
    with path.open("rb") as stream:
        begin = stream.read(1024).lower()
    return not begin or b"<html" in begin or b"<!doctype html" in begin


def finish(found: Check, html: Path | None, fix: Path | None, as_json: bool) -> None:
    """Prints and writes what was asked for; exit code 1 where there is an error."""
    content = found.content()
    try:
        _print(content, found, as_json)
    finally:
        # Also where the output's reader is gone, as in `| head`.
        _write(content, found, html, fix, as_json)
    if content["errors"]:
        raise typer.Exit(1)


def _print(content: dict[str, Any], found: Check, as_json: bool) -> None:
    if as_json:
        _print_json(content, found)
        return
    from rich.console import Console

    _print_tables(content, found, Console())


def _write(content: dict[str, Any], found: Check, html: Path | None, fix: Path | None, as_json: bool) -> None:
    wrote = []
    if html is not None:
        _write_page(content, found, html)
        wrote.append(f"Wrote {html}.")
    if fix is not None:
        wrote.append(_fix(found, fix))
    for line in wrote if not as_json else ():
        typer.echo(line)


def _write_page(content: dict[str, Any], found: Check, path: Path) -> None:
    from cotbal.files import write_text_atomically
    from cotbal.report.check_page import render_check_page

    first = {kind: [found.findings.row(each) for each in some] for kind, some in found.findings.first.items()}
    write_text_atomically(path, render_check_page(content, first, found.samples()))


def _fix(found: Check, out: Path) -> str:
    from cotbal.data.check.fix import CHANGES, write_fixed

    files = write_fixed(found, out)["files"]
    changed, taken_out = (sum(each[key] for each in files) for key in ("changed", "taken_out"))
    return (
        f"Wrote {len(files)} files under {out}: {changed:,} records changed, {taken_out:,} taken out; "
        f"{out / CHANGES} lists every change. The findings above are those of the originals."
    )


def _print_json(content: dict[str, Any], found: Check) -> None:
    """Prints everything; the findings one by one, as there can be more than memory holds."""
    text = json.dumps(content, indent=1)
    typer.echo(text.removesuffix("\n}") + ',\n "findings": [', nl=False)
    glue = "\n  "
    for line in found.findings.lines():
        typer.echo(glue + line, nl=False)
        glue = ",\n  "
    typer.echo("\n ]\n}")


def _print_tables(content: dict[str, Any], found: Check, console: Console) -> None:
    _print_sizes(content, console)
    for level in ("error", "warning"):
        _print_findings(found, level, console)
    console.print(_summary(content), style="bold", markup=False, highlight=False)


def _print_sizes(content: dict[str, Any], console: Console) -> None:
    from cotbal.report.tables import print_columns

    tasks = content["tasks"]
    if not tasks:
        return
    unit = content["unit"]
    columns = {
        "split": [each["split"] for each in tasks],
        "records": [f"{each['records']:,}" for each in tasks],
        "pictures": [f"{each['with_picture']:,}" for each in tasks],
        "answers": [f"{each['turns']:,}" for each in tasks],
        unit: [f"{each['kept_positions']:,}" if each["measured"] else "-" for each in tasks],
        "trained": [f"{each['kept_valid']:,}" if each["measured"] else "-" for each in tasks],
        "ignored": ["-" if each["ignored"] is None else f"{each['ignored']:.1%}" for each in tasks],
    }
    if unit == "tokens":
        columns["cut"] = [f"{each['cut']:,}" if each["measured"] else "-" for each in tasks]
    lengths = [each["lengths"] for each in tasks]
    filled = [place for counts in lengths for place, count in enumerate(counts) if count]
    if filled:
        reach = range(min(filled), max(filled) + 1)
        name = f"{unit} each, {content['bins'][reach[0]]:,} to {content['bins'][reach[-1]]:,}"
        columns[name] = [_sparkline(counts, reach) for counts in lengths]
    print_columns("What there is", [each["task"] for each in tasks], columns, console=console)
    console.print(explained(content), markup=False, highlight=False)
    console.print()


def explained(content: dict[str, Any]) -> str:
    """What the sizes are, in words."""
    bins = "Bars: conversations by length, which doubles with every second bar."
    if content["unit"] == "words":
        return (
            "Without --tokenizer words were counted, of questions and answers, and truncation was not looked "
            f"at. trained: words of answers. ignored: the others' share. {bins}"
        )
    return (
        f"tokens: positions in LLaVA's template vicuna_v1, {content['image_tokens']} for a picture, after "
        f"truncation to {content['most_tokens']:,}. trained: the answers' and the end of each. ignored: the "
        f"others' share, which the loss does not compute. cut: conversations that were longer. {bins}"
    )


def _sparkline(counts: Sequence[int], reach: range) -> str:
    """The counts of these bins as bars."""
    most = max(counts)
    return "".join(_BLOCKS[-(-8 * counts[place] // most)] for place in reach) if most else "-"


def _print_findings(found: Check, level: str, console: Console) -> None:
    from cotbal.data.check.findings import KINDS

    for kind, count in found.findings.of(level).items():
        style = "red" if level == "error" else "yellow"
        console.print(f"{level} {kind}: {count:,}", style=f"bold {style}", markup=False, highlight=False)
        for finding in found.findings.first[kind][:SHOWN]:
            console.print(f"  {finding.words()}", markup=False, highlight=False, soft_wrap=True)
        if count > SHOWN:
            console.print(f"  and {count - SHOWN:,} more; --json has all", markup=False, highlight=False)
        console.print(f"  -> {KINDS[kind].advice}", markup=False, highlight=False, soft_wrap=True)


def _summary(content: dict[str, Any]) -> str:
    records = sum(each["records"] for each in content["files"])
    pictures = "no picture opened" if content["pictures"] is None else f"{content['pictures']:,} pictures"
    errors, warnings = sum(content["errors"].values()), sum(content["warnings"].values())
    told = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    return f"{_counted(records, 'record')}, {pictures}: {told}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
