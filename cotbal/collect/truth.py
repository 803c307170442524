"""The right answers that predictions are scored against, from a JSON, JSONL or table of the user's."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.collect.found import Found
from cotbal.collect.records import Record, by_id, images_of, read_records
from cotbal.collect.scoring import RULE_OPTIONS, matching_rules, score_items
from cotbal.collect.source import Source

ID_FIELDS = ("id", "question_id", "questionId")
_ANSWER_FIELDS = (
    "answer",
    "answers",
    "multiple_choice_answer",
    "label",
    "bbox",
    "caption",
    "captions",
    "conversations",
)
_IMAGE_FIELDS = ("image", "image_id", "imageId")
TRUTH_OPTIONS = {
    "truth": "the file of right answers, json, jsonl, csv or tsv",
    "truth-id": f"its field of the id, if it is not the only one of {', '.join(ID_FIELDS)}; rows with the "
    "same are the captions of one item (CIDEr), as with image_id in COCO's file",
    "truth-answer": f"its field of the answer, if it is not the only one of {', '.join(_ANSWER_FIELDS)}",
    "image": f"its field of the image, else the first of {', '.join(_IMAGE_FIELDS)}; "
    "items on one image are drawn together",
    **RULE_OPTIONS,
}


class _Truth(NamedTuple):
    answers: dict[str, Any]
    images: dict[str, str]


def the_field(records: Sequence[Record], given: str | None, candidates: Sequence[str], option: str) -> str:
    """Return the field that holds something: the given one, else the only candidate that is there.

    Raises:
        ValueError: none of the candidates is in the first record, or several are.
    """
    if given is not None:
        return given
    present = [name for name in candidates if name in records[0].fields]
    if len(present) != 1:
        got = f"{' and '.join(present)}; say which by {option}=..." if present else "none of them"
        if not present:
            got += f" among {', '.join(map(str, records[0].fields))}; name it by {option}=..."
        raise ValueError(
            f"{records[0].file}: {records[0].place}: expected one of {', '.join(candidates)}, got {got}"
        )
    return present[0]


def score_against_truth(
    source: Source, predictions: dict[str, str], files: Sequence[Path], rules: dict[str, Any]
) -> Found:
    """Return the items of predictions by id, scored against the file of the option `truth`.

    Raises:
        ValueError: an id on one side alone, or a bad answer; the file and record are named.
    """
    path = Path(source.required("truth"))
    truth = _read(source, path)
    check_ids(predictions, truth.answers, files, path)
    ids = list(truth.answers)
    scores = score_items(
        source.metric,
        [predictions[key] for key in ids],
        list(truth.answers.values()),
        rules,
        f"{files[0]}, {path}",
    )
    return Found(
        (*files, path),
        items=dict(zip(ids, scores, strict=True)),
        images=truth.images,
        higher_is_better=True,
        rules=rules,
    )


def check_ids(
    predictions: Collection[str], wanted: Collection[str], files: Sequence[Path], path: Path
) -> None:
    """Raise ValueError where the ids of predictions are not those of the questions in `path`."""
    missing = [key for key in wanted if key not in predictions]
    extra = [key for key in predictions if key not in wanted]
    parts = [
        f"{len(ids)} {what} ({some(ids)})" for ids, what in ((missing, "missing"), (extra, "unknown")) if ids
    ]
    if parts:
        raise ValueError(f"{', '.join(map(str, files))}: ids differ from those of {path}: {', '.join(parts)}")


def some(ids: Sequence[str]) -> str:
    """Return the first few of a list of ids as text."""
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def own_rules(source: Source) -> dict[str, Any]:
    """Return the matching rules of a source that cotbal's own metric scores."""
    return matching_rules(source.metric, source.options, str(source))


def _read(source: Source, path: Path) -> _Truth:
    records = read_records(path)
    id_field = the_field(records, source.options.get("truth-id"), ID_FIELDS, "truth-id")
    _refuse_questions_alone(records, source)
    answer_field = the_field(records, source.options.get("truth-answer"), _ANSWER_FIELDS, "truth-answer")
    if source.metric == "CIDEr" and "truth-id" in source.options:
        records = _one_per_id(records, id_field, answer_field)
    by_key = by_id(records, id_field)
    # The first item may be one of the few that have no image.
    fields = (name for name in _IMAGE_FIELDS if any(name in record.fields for record in records))
    images = images_of(by_key, next(fields, _IMAGE_FIELDS[0]), source.options.get("image"))
    return _Truth({key: _answer(record, answer_field) for key, record in by_key.items()}, images)


def _one_per_id(records: Sequence[Record], id_field: str, answer_field: str) -> list[Record]:
    """A record for each id with the captions of all its rows: COCO's file has a row per caption."""
    first: dict[str, Record] = {}
    captions: dict[str, list[str]] = {}
    for record in records:
        key, found = record.id(id_field), _answer(record, answer_field)
        first.setdefault(key, record)
        captions.setdefault(key, []).extend([found] if isinstance(found, str) else found)
    return [
        Record(each.file, each.place, each.fields | {answer_field: captions[key]})
        for key, each in first.items()
    ]


def _refuse_questions_alone(records: Sequence[Record], source: Source) -> None:
    """A held-out question of `cotbal prepare` has its answer, where the publisher gives it."""
    first = records[0].fields.keys()
    # Other questions of LLaVA's form have theirs by another name, as POPE's.
    named = "truth-answer" in source.options or first & {*_ANSWER_FIELDS} - {"answer"}
    for record in records if first >= {"question_id", "text"} and not named else ():
        if "answer" not in record.fields:
            raise record.error(
                "answer",
                "the right answer; those of VQAv2's test sets are not public: score mixture/validation, or "
                "write the server's file by `cotbal score --upload`",
            )


def _answer(record: Record, name: str) -> Any:
    """The answer: a text, several texts, or a box of four numbers."""
    value = record.fields.get(name)
    if name == "conversations":
        return record_answer(record)["value"]
    if isinstance(value, list) and value:
        # VQAv2 gives the answers of several people as objects.
        value = [each.get("answer") if isinstance(each, dict) else each for each in value]
        if all(isinstance(each, str) for each in value):
            return value
        if len(value) == 4 and all(type(each) in (int, float) for each in value):
            return value
    if isinstance(value, str) and not _is_spelled_list(record, value):
        return value
    advice = "; write the list in JSON or JSONL, where it is one" if isinstance(value, str) else ""
    raise record.error(name, f"a text, a list of texts or a box of four numbers{advice}")


def _is_spelled_list(record: Record, value: str) -> bool:
    """Whether a table's cell is a list of answers as pandas writes it, which no answer would equal."""
    table = record.file.suffix.lower() not in (".json", ".jsonl")
    return table and value.startswith(("['", '["')) and value.endswith(("']", '"]'))


def record_answer(record: Record) -> dict[str, Any]:
    """Return the answering turn of a LLaVA record of one question; ValueError for another number of turns."""
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        raise record.error("conversations", "two turns, a question and its answer")
    answer: dict[str, Any] = turns[1]
    return answer
