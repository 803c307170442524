"""Format `predictions`: a model's answers, scored here by cotbal's own metrics.

A JSONL or JSON file of objects with an id (`id`, `question_id` or `questionId`) and an answer (`answer`,
`text` or `prediction`), such as VQAv2's upload file or the one of LLaVA's scripts/convert_gqa_for_eval.py;
other names by options. The right answers come from the file of the option `truth`: a list of objects,
the held-out questions of `cotbal prepare`, VQAv2's annotations (`truth-answer=multiple_choice_answer`), GQA's
questions, COCO's captions (`truth-id=image_id`), or LLaVA records of one question each.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cotbal.collect.found import Found
from cotbal.collect.locate import PARTS, find_files
from cotbal.collect.records import by_id, read_records
from cotbal.collect.source import Source
from cotbal.collect.truth import ID_FIELDS, TRUTH_OPTIONS, own_rules, score_against_truth, the_field

_ANSWER_FIELDS = ("answer", "text", "prediction")
OPTIONS = {
    "id": f"the field of the id, if it is not the only one of {', '.join(ID_FIELDS)}",
    "answer": f"the field of the answer, if it is not the only one of {', '.join(_ANSWER_FIELDS)}",
    **PARTS,
    **TRUTH_OPTIONS,
}


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the items of a run's predictions on one validation set."""
    rules = own_rules(source)
    files = find_files(folder, source.name, parts=parts(source))
    return score_against_truth(source, read_answers(files, source.options), files, rules)


def read_answers(files: Sequence[Path], options: Mapping[str, str]) -> dict[str, str]:
    """Return the answers of prediction files by id; ValueError for an id that comes twice."""
    records = [record for file in files for record in read_records(file)]
    id_field = the_field(records, options.get("id"), ID_FIELDS, "id")
    answer_field = the_field(records, options.get("answer"), _ANSWER_FIELDS, "answer")
    return {key: record.text(answer_field) for key, record in by_id(records, id_field).items()}


def parts(source: Source) -> int:
    """Return the declared number of files; ValueError if it is none."""
    text = source.options.get("parts", "1")
    if not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{source}: parts: expected a number of files, got {text!r}")
    return int(text)
