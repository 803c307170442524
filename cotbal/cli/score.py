"""`cotbal score`: one model's answers to the held-out questions of one task, scored."""

import json
from pathlib import Path
from typing import Annotated

import typer


def score(
    questions: Annotated[
        Path, typer.Option(help="The held-out questions, such as mixture/validation/VQAv2.jsonl.")
    ],
    predictions: Annotated[
        Path, typer.Option(help='The answers: {"question_id", "text"} or {"id", "answer"}, JSONL or JSON.')
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="EM, CIDEr, Acc@IoU or mIoU; by default that of the paper for the task."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task, where the questions do not name theirs.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A matching rule or a field's name, as in `cotbal collect` (rule=relaxed); may be repeated.",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Write score and items there, as an evaluation of `cotbal run` has to."),
    ] = None,
    upload: Annotated[
        Path | None,
        typer.Option(help="Instead of a score, write the file that VQAv2's server takes for test questions."),
    ] = None,
    fill: Annotated[
        Path | None,
        typer.Option(
            help="With --upload: v2_OpenEnded_mscoco_test2015_questions.json. The server wants an answer to "
            "each of its questions; those not asked get an empty one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score one model's answers to the held-out questions of one task, by that task's metric.

    An answer that is missing, stands twice or is to no question is an error.

    Example: cotbal score --questions mixture/validation/VQAv2.jsonl --predictions answers.jsonl

    For VQAv2's test-dev, whose answers are not public: cotbal score --questions mixture/test/VQAv2.jsonl
    --predictions answers.jsonl --upload upload.json --fill v2_OpenEnded_mscoco_test2015_questions.json
    """
    from cotbal.collect.one_model import score_file, write_scores, write_upload
    from cotbal.files import check_outputs

    check_outputs([("--scores", scores), ("--upload", upload)], [questions, predictions, fill])
    if upload is not None:
        if given := [
            name for name, value in (("metric", metric), ("task", task), ("scores", scores)) if value
        ]:
            raise ValueError(f"--{given[0]}: expected no score beside --upload; leave it out")
        answers, empty = write_upload(upload, questions, predictions, fill)
        summary = {"upload": str(upload), "answers": answers, "empty": empty}
        beside = f" and {empty} empty ones" if fill else ""
        typer.echo(json.dumps(summary) if as_json else f"Wrote {upload}: {answers} answers{beside}.")
        return
    if fill is not None:
        raise ValueError("--fill: expected --upload beside it, got none")
    scored = score_file(questions, predictions, task=task, metric=metric, options=_options(option or []))
    if scores is not None:
        write_scores(scores, scored)
    if as_json:
        typer.echo(json.dumps(scored._asdict(), allow_nan=False))
        return
    rules = "".join(f", {name}={value}" for name, value in scored.rules.items())
    typer.echo(f"{scored.task}: {scored.metric} {scored.score:.4f} ({len(scored.items)} items{rules})")


def _options(pairs: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value) or name in options or name in ("truth", "parts"):
            raise ValueError(f"--option: expected NAME=VALUE, each name once, got {pair!r}")
        options[name] = value
    return options
