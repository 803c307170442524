"""Format `visatb`: the answer files of VisATB's inference_visatb.py (its repository of January 2026).

A JSON list of the validation file's own records, `{"id", "image", "conversations": [{"from": "human",
"value"}, {"from": "gpt", "value", "generative_value"}], "generator"}`: the right answer and the model's
stand in one turn, the right one being a list of texts for RefCOCO's captions. Its scorers (eval/qa.py,
caption.py, caption_list.py, grounding_bbox.py) print their score and write no file; EM, CIDEr and Acc@IoU
have the same rules. With several chunks the files lie in `tmp` as ..._0-4.json: `from=tmp/NAME_*-4.json
parts=4`.
"""

from pathlib import Path
from typing import Any

from cotbal.collect.found import Found
from cotbal.collect.locate import PARTS, find_files
from cotbal.collect.predictions import parts
from cotbal.collect.records import Record, by_id, images_of, read_records
from cotbal.collect.scoring import RULE_OPTIONS, score_items
from cotbal.collect.source import Source
from cotbal.collect.truth import own_rules, record_answer

OPTIONS = {
    "id": "id+question where one id has several questions, by default id",
    **PARTS,
    **RULE_OPTIONS,
}


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the items of a run's answer file on one validation set."""
    rules = own_rules(source)
    files = find_files(folder, source.name, parts=parts(source))
    records = _keyed([record for file in files for record in read_records(file)], source)
    references = [_reference(record) for record in records.values()]
    predictions = [_generated(record) for record in records.values()]
    scores = score_items(source.metric, predictions, references, rules, str(files[0]))
    return Found(
        tuple(files),
        items=dict(zip(records, scores, strict=True)),
        images=images_of(records, "image"),
        higher_is_better=True,
        rules=rules,
    )


def _keyed(records: list[Record], source: Source) -> dict[str, Record]:
    key = source.options.get("id", "id")
    if key == "id":
        return by_id(records, "id")
    if key != "id+question":
        raise ValueError(f"{source}: id: expected id or id+question, got {key!r}")
    for record in records:
        record_answer(record)
        record.fields[key] = f"{record.id('id')}: {record.fields['conversations'][0].get('value')}"
    return by_id(records, key)


def _generated(record: Record) -> str:
    text = record_answer(record).get("generative_value")
    if not isinstance(text, str):
        raise ValueError(
            f"{record.file}: {record.place}, field 'generative_value' of the second turn: expected a text, "
            f"got {'nothing' if text is None else repr(text)}"
        )
    return text


def _reference(record: Record) -> Any:
    value = record_answer(record).get("value")
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise record.error("conversations", "a text or a list of texts as value of the second turn")
    return value
