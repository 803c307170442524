"""`cotbal data check`: what is wrong with records before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotbal.cli.preparing import Json

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def data() -> None:
    """Look at records before they are trained on.

    Example: cotbal data check mixture --images pictures
    """


@app.command()
def check(
    file: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Training records, JSON or JSONL; or the folder of a mixture or a prepared task."
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=FILE", help="A file of another split (validation=val.jsonl); repeatable."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="The image folder of the training: every picture is opened and decoded."),
    ] = None,
    records_only: Annotated[
        bool, typer.Option("--records-only", help="Open no picture; they are told apart by their paths.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer.json, its folder, or a model's name; without it words are counted."),
    ] = None,
    max_length: Annotated[int, typer.Option(min=1, help="LLaVA's model_max_length.")] = 2048,
    image_tokens: Annotated[int, typer.Option(min=1, help="Positions that a picture becomes.")] = 576,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task that there is; any other is an error. They name a list of weights in its order. "
            "Repeatable."
        ),
    ] = None,
    file_task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE=TASK",
            help="The task of a file's records that name none, as --tasks of the training; repeatable.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="weights.json, or a list: a task without a weight in it is an error.")
    ] = None,
    instruction: Annotated[
        list[str] | None,
        typer.Option(
            help="A response format instruction that makes no other question; those of table 1 are known."
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Count this kind of error as a warning; repeatable."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; the output is the same with any number.")
    ] = 1,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with histograms, findings and samples.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write mended copies, and what was changed, to this new folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every record, every picture, and what stands twice; exit code 1 on errors.

    Errors: roles that do not alternate, empty answers, <image> without a
    picture or the other way round, no known task, pictures that are missing,
    broken or outside the folder, boxes outside 0..1, questions that are in two
    splits, conversations of which truncation leaves no answer.

    Warnings are what may be meant: repeated records and questions, pictures in
    two splits, copies of a picture. Sizes by task: records, tokens, those
    trained on, the ignored share, histograms of the lengths.

    A record's task is its "task", else its "channel" or "source", else that of
    its file (--file-task).

    A broken line of JSONL is an error and the next one is read; in a JSON array
    reading stops there, and goes on with the next file.

    FILE is trained on; a folder that `cotbal prepare mix` wrote brings its own
    splits. Files are streamed, in memory that does not grow with them. The
    terminal shows the first findings of each kind, --json all.

    --fix changes only what can be meant in one way: other names of roles (user,
    assistant), an answer before the first question, a question after the last
    answer, a missing <image> or one too many, records that are equal byte by
    byte. The originals stay; changes.jsonl lists every change. Files of which
    a record cannot be read are refused.

    Example: cotbal data check mixture --images pictures --workers 8 --html check.html

    Example: cotbal data check train.json --images pictures --tokenizer lmsys/vicuna-7b-v1.5

    Example: cotbal data check train.json --split validation=val.jsonl --records-only

    Example: cotbal data check vqa.json --file-task vqa.json=VQAv2 --records-only

    Example: cotbal data check train.json --images pictures --fix mended
    """
    from cotbal.cli.checking import check_page, finish, run_check
    from cotbal.data.check.fix import CHANGES, FIXED, check_folder
    from cotbal.data.check.schema import INSTRUCTIONS, Settings
    from cotbal.data.check.sources import find_file_tasks, find_sources
    from cotbal.files import check_outputs

    if images is None and not records_only:
        raise ValueError("--images: expected the image folder of the training, or --records-only")
    if images is not None and (records_only or not images.is_dir()):
        got = "--records-only as well" if records_only else f"{images}, which is no folder"
        raise ValueError(f"--images: expected the image folder of the training, got {got}")
    known = list(task or ())
    if weights is not None:
        from cotbal.weights import TaskWeights

        try:
            known += [name for name in TaskWeights.load(weights, task) if name not in known]
        except ValueError as error:
            # Of a list, by the parameter's name.
            hint = "; --task names them" if f"{weights}: tasks: " in str(error) else ""
            raise ValueError(f"{error}{hint}") from error
    sources = find_sources(file or (), split or ())
    settings = Settings(
        tuple(known),
        max_length,
        image_tokens,
        tokenizer,
        INSTRUCTIONS + tuple(instruction or ()),
        find_file_tasks(sources, file_task or ()),
    )
    # Not after the hours that pictures can take.
    outputs = [("--html", html)]
    if fix is not None:
        outputs += [("--fix", fix / name) for name in (*check_folder(sources, fix), CHANGES, FIXED)]
    check_outputs(outputs, [*(source.path for source in sources), weights])
    if html is not None:
        check_page(html)
    found = run_check(sources, settings, images, workers, accept or ())
    finish(found, html, fix, as_json)
