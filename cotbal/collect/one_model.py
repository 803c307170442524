"""One model's answers to the held-out questions of one task: score and items, or a server's upload file."""

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from cotbal.collect import predictions as predictions_format
from cotbal.collect.records import Record, by_id, read_records
from cotbal.collect.scoring import METRICS, TASK_METRICS
from cotbal.collect.source import Source
from cotbal.collect.truth import check_ids, some
from cotbal.files import write_text_atomically

UPLOADED = "VQAv2"


class Scored(NamedTuple):
    """What a model's answers are worth.

    Attributes:
        task: the task.
        metric: by which they were scored.
        score: the items' mean.
        items: the score of each question, in the order of the questions' file.
        rules: the matching rules.
        clusters: a number per item, equal for questions on one image; None where none tells its image.
    """

    task: str
    metric: str
    score: float
    items: list[float]
    rules: Mapping[str, Any]
    clusters: list[int] | None = None


def score_file(
    questions: Path,
    predictions: Path,
    *,
    task: str | None = None,
    metric: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Scored:
    """Return the score of a file of predictions on the held-out questions of a task.

    Args:
        questions: of `cotbal prepare` or `prepare mix`, or another file with right answers.
        predictions: a JSONL or JSON file with an answer for each question's id.
        task: whose questions they are, where they do not say it.
        metric: by default that of the task.
        options: matching rules and fields' names, as of the format `predictions`.

    Raises:
        OSError: a file cannot be read.
        ValueError: an answer is missing, stands twice or is to no question; no metric for the task; questions
            of another task, or without public answers.
    """
    if task is not None:
        _check_task(questions, task)
    name = task or task_of(questions, metric)
    if metric is None and name not in TASK_METRICS:
        raise ValueError(
            f"{questions}: task {name!r}: expected --metric with one of {', '.join(METRICS)}; known are "
            f"those of {', '.join(TASK_METRICS)}"
        )
    chosen = metric or TASK_METRICS[name]
    told = {**(options or {}), "truth": str(questions)}
    source = Source(name, "predictions", glob.escape(predictions.name), chosen, options=told)
    source.check_options(predictions_format.OPTIONS)
    found = predictions_format.read(predictions.parent, source, "")
    scored = found.items or {}
    items = list(scored.values())
    return Scored(name, chosen, fmean(items), items, found.rules, _clusters(list(scored), found.images))


def _clusters(ids: Sequence[str], images: Mapping[str, str]) -> list[int] | None:
    """Numbers of the images in the order of the items; an item without one is by itself."""
    if not images:
        return None
    keys = [("image", images[each]) if each in images else ("item", each) for each in ids]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def task_of(questions: Path, metric: str | None = None) -> str:
    """Return the task that every question of a file names.

    Where none names one but the metric is known, no task is needed: the file's name stands for it.

    Raises:
        ValueError: they name different ones, or none.
    """
    records = read_records(questions)
    named = [record for record in records if record.fields.get("task") is not None]
    task = records[0].text("task") if named[:1] == records[:1] else None
    if metric is not None and not named:
        return questions.stem
    if task is None:
        raise ValueError(f"{questions}: expected a task in each question, got none; name it by --task")
    for record in records:
        if record.fields.get("task") != task:
            raise record.error("task", f"{task!r}, as in the first")
    return task


def _check_task(questions: Path, task: str) -> None:
    """Raise ValueError for a question that names another task."""
    for record in read_records(questions):
        if record.fields.get("task") not in (None, task):
            raise record.error(
                "task", f"{task!r}, as --task says; give that task's questions, or leave it out"
            )


def write_scores(path: Path, scored: Scored) -> Path:
    """Write what an evaluation command of `cotbal run` has to leave: the score, the items, their clusters."""
    content = {**scored._asdict(), "rules": dict(scored.rules)}
    return write_text_atomically(path, json.dumps(content, allow_nan=False) + "\n")


def write_upload(path: Path, questions: Path, predictions: Path, fill: Path | None = None) -> tuple[int, int]:
    """Write the file that VQAv2's server takes, `[{"question_id": int, "answer": str}, ...]`.

    An answer goes there without white space at its ends, in lower case and without one full stop, as it is
    scored here.

    Args:
        path: the file.
        questions: the held-out questions that were asked.
        predictions: an answer to each of them.
        fill: the publisher's `v2_OpenEnded_mscoco_test2015_questions.json`. The server wants an answer to
            each of its questions, also where test-dev's alone count; those not asked get an empty one.

    Returns:
        How many answers, and how many empty ones beside them.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: an answer is missing, stands twice or is to no question; questions of another task.
    """
    if (task := task_of(questions)) != UPLOADED:
        raise ValueError(f"{questions}: expected questions of {UPLOADED}, whose server it is, got {task!r}")
    asked = by_id(read_records(questions), "question_id")
    answers = predictions_format.read_answers([predictions], {})
    check_ids(answers, asked, [predictions], questions)
    numbers = {key: _number(record) for key, record in asked.items()}
    empty: Sequence[int] = []
    if fill is not None:
        everything = by_id(read_records(fill), "question_id")
        if unknown := [key for key in asked if key not in everything]:
            raise ValueError(
                f"{fill}: expected the questions of {questions} among its own, got none for {some(unknown)}"
            )
        empty = [_number(record) for key, record in everything.items() if key not in asked]
    rows = [{"question_id": numbers[key], "answer": _plain(answers[key])} for key in asked]
    rows += [{"question_id": number, "answer": ""} for number in empty]
    write_text_atomically(path, json.dumps(rows, ensure_ascii=False) + "\n")
    return len(asked), len(empty)


def _number(record: Record) -> int:
    text = record.id("question_id")
    if not text.isdecimal():
        raise record.error("question_id", "a whole number, as VQAv2's are")
    return int(text)


def _plain(answer: str) -> str:
    return answer.strip().lower().removesuffix(".")
