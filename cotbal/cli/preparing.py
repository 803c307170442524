"""What the commands of `cotbal prepare` share: options, the bars while files are read, what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.data.inputs import Inputs
    from cotbal.data.vqa import Target


class Form(str, Enum):
    """Forms of a training file."""

    JSON = "json"
    JSONL = "jsonl"


Folder = Annotated[Path, typer.Option(help="The folder with the publisher's files, named as published.")]
File = Annotated[Path, typer.Option(help="The publisher's file, or its folder.")]
Images = Annotated[
    str,
    typer.Option(
        help="The pictures' folder, relative to the image folder of the training (coco, gqa/images)."
    ),
]
ImageFolder = Annotated[
    Path | None,
    typer.Option(
        help="The image folder of the training: each picture must then be there. Not looked at by default."
    ),
]
Out = Annotated[Path, typer.Option(help="The folder of all prepared tasks; the task gets a folder in it.")]
Seed = Annotated[int, typer.Option(help="Decides every order and every draw.")]
FormOption = Annotated[Form, typer.Option("--format", help="Of training records; LLaVA reads json.")]
Skip = Annotated[
    bool,
    typer.Option("--skip-invalid", help="Leave out and count records with a mistake, instead of stopping."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Validation = Annotated[int, typer.Option(min=0, help="Draw so many of the validation questions.")]


def target(out: Path, images: str, image_folder: Path | None, seed: int, form: Form) -> Target:
    """Where a preparation writes, as the options say."""
    from cotbal.data.pictures import Pictures, checked_within
    from cotbal.data.vqa import Target

    return Target(out, Pictures(checked_within(images), image_folder), seed, form.value)


@contextmanager
def reading(skip_invalid: bool) -> Iterator[Inputs]:
    """The inputs, with a bar for each file on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from cotbal.data.inputs import Inputs

    console = Console(stderr=True)
    view = Progress(console=console, transient=True, disable=not console.is_terminal)
    # Elsewhere rich before 14.3 would end even a disabled one with an empty line.
    with view if console.is_terminal else nullcontext():
        yield Inputs(_bars(view), skip_invalid=skip_invalid)


def _bars(view: Any) -> Callable[[Path, int], None]:
    bars: dict[Path, Any] = {}

    def told(path: Path, size: int) -> None:
        if path not in bars:
            bars[path] = view.add_task(f"{path.parent.name}/{path.name}", total=path.stat().st_size)
        view.advance(bars[path], size)

    return told


def show(written: list[dict[str, Any]], as_json: bool) -> None:
    """Prints what was written and what was left out."""
    if as_json:
        typer.echo(json.dumps(written, indent=1))
        return
    for content in written:
        typer.echo(f"{content['task']}:")
        for split, what in content["splits"].items():
            sizes = ", ".join(
                f"{what[unit]:,} {unit}" for unit in ("records", "turns", "questions") if unit in what
            )
            typer.echo(f"  {split:<16}{sizes}")
        for reason, count in content["left_out"].items():
            typer.echo(f"  left out: {count:,} {reason}")
        for message in content["first_left_out"]:
            typer.echo(f"    {message}")
        if content["cut"]:
            typer.echo(f"  cut at the tokens: {content['cut']:,}")
