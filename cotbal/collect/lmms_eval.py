"""Format `lmms-eval`: the result files of lmms-eval 0.2.4 to 0.7 (`--output_path`, `--log_samples`).

`from` is lmms-eval's name of the task, `metric` that of the metric without its filter.

- `<date>_results.json`: `{"results": {task: {"alias", "samples", "exact_match,none",
  "exact_match_stderr,none", ...}}, "higher_is_better": {task: {metric: true}}, "n-samples", "configs",
  "versions", ...}`.
- `<date>_samples_<task>.jsonl` beside it: `{"doc_id", "doc_hash", "target", "filtered_resps", ..., metric:
  value}`, a line per item; those that have the metric are its items. Only numbers are items, or the "score"
  of an object (POPE's accuracy): tasks that aggregate over other objects (COCO's CIDEr, MME) need `items=no`.
  Up to 0.3 a line has the document as `doc`, whose image may be named by the option `image`; later ones do
  not say which items share an image, so that `images` gives it from a file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotbal.collect.found import Found
from cotbal.collect.images import IMAGES_OPTION, images_files, images_from_file
from cotbal.collect.locate import find_files
from cotbal.collect.records import Record, by_id, read_json, read_records
from cotbal.collect.source import Source

OPTIONS = {
    "filter": "the metric's filter, if there are several",
    "image": "the field of the document that names its image (lmms-eval up to 0.3)",
    "images": IMAGES_OPTION.format("doc_id"),
}
_IDS = ("doc_id", "id")
_RESULTS = "_results.json"


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the score and the items of a run on one task of lmms-eval."""
    file, content = _results_of(folder, source)
    record = Record(file, f"results of {source.name!r}", content["results"][source.name])
    key = _metric_key(record, source, (content.get("group_subtasks") or {}).get(source.name))
    higher = (content.get("higher_is_better") or {}).get(source.name) or {}
    samples = file.with_name(f"{file.name.removesuffix(_RESULTS)}_samples_{source.name}.jsonl")
    if not (source.items and samples.is_file()):
        number = ((content.get("n-samples") or {}).get(source.name) or {}).get("effective")
        return Found((file,), record.number(key), higher_is_better=higher.get(source.metric), number=number)
    told = _by_document(read_records(samples))
    _check_number(record, samples, told)
    # Of a metric of a part, as ChartQA's human questions, the others say nothing.
    records = {key: each for key, each in told.items() if source.metric in each.fields} or told
    names = {doc_id: f"{doc_id} (document {_version(each)})" for doc_id, each in records.items()}
    return Found(
        (file, samples, *images_files(source)),
        record.number(key),
        {names[doc_id]: score for doc_id, score in _items(records, source).items()},
        {names[doc_id]: image for doc_id, image in _images(records, source).items()},
        higher.get(source.metric),
    )


def _version(record: Record) -> str:
    """Tells the document from another of its number: another version of the data set has other items.

    Up to 0.7 lmms-eval hashes no document but "null", so that the target tells more.
    """
    # An object in it is written with its place in memory.
    target = re.sub(" at 0x[0-9a-f]+", "", str(record.fields.get("target")))
    told = json.dumps([record.text("doc_hash"), target])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _by_document(samples: list[Record]) -> dict[str, Record]:
    try:
        return by_id(samples, "doc_id")
    except ValueError as error:
        # No line says which filter it is of.
        raise ValueError(f"{error}; samples of several filters need items=no") from error


def _results_of(folder: Path, source: Source) -> tuple[Path, dict[str, Any]]:
    """The one result file in the folder, or below it, that has the task."""
    files = find_files(folder, f"**/*{_RESULTS}", parts=None)
    # Answers for a server, in submissions/ beside them, may have names that end alike.
    contents = {
        file: content
        for file in files
        if isinstance(content := read_json(file), dict) and isinstance(content.get("results"), dict)
    }
    if not contents:
        raise ValueError(f"{files[0]}: expected lmms-eval's results, an object with 'results', got none")
    files = list(contents)
    having = [file for file in files if isinstance(contents[file]["results"].get(source.name), dict)]
    if not having:
        known = sorted({name for content in contents.values() for name in content["results"]})
        raise ValueError(
            f"{source}: {', '.join(map(str, files))}: no results of {source.name!r}; there are those of "
            f"{', '.join(known)}"
        )
    if len(having) > 1:
        raise ValueError(
            f"{source}: results of {source.name!r} stand in {', '.join(map(str, having))}; keep one in the "
            "run's folder"
        )
    return having[0], contents[having[0]]


def _metric_key(record: Record, source: Source, parts: Any) -> str:
    """The key "metric,filter" of the results; `parts` are the tasks of a group, which has none itself."""
    wanted = source.options.get("filter")
    keys = [key for key in record.fields if key.rpartition(",")[0] == source.metric]
    if wanted is not None:
        keys = [key for key in keys if key.rpartition(",")[2] == wanted]
    if len(keys) == 1:
        return keys[0]
    if keys:
        filters = ", ".join(key.rpartition(",")[2] for key in keys)
        raise ValueError(
            f"{record.file}: {record.place}: {source.metric!r} has the filters {filters}; say filter=..."
        )
    metrics = [key for key in record.fields if "," in key and "_stderr" not in key]
    known = f"there are {', '.join(metrics)}, the filter behind the comma"
    if not metrics and parts:
        known = f"it is a group; take its tasks, from={' or from='.join(map(str, parts))}"
    raise ValueError(
        f"{record.file}: {record.place}: no metric {source.metric!r}"
        f"{f' with filter {wanted!r}' if wanted else ''}; {known}"
    )


def _items(records: Mapping[str, Record], source: Source) -> dict[str, float]:
    return {doc_id: _item(record, source.metric) for doc_id, record in records.items()}


def _item(record: Record, metric: str) -> float:
    value = record.fields.get(metric)
    # POPE's; whether their mean is the metric is looked at with the tool's own score.
    if isinstance(value, dict) and "score" in value:
        return Record(record.file, f"{record.place}, {metric}", value).number("score")
    if isinstance(value, (dict, list)):
        raise record.error(metric, "a number; a score that is no mean over items needs items=no")
    return record.number(metric)


def _images(records: Mapping[str, Record], source: Source) -> dict[str, str]:
    if "images" in source.options:
        return images_from_file(source, records, _IDS)
    if "image" not in source.options:
        return {}
    images = {}
    for doc_id, record in records.items():
        document = record.fields.get("doc")
        if not isinstance(document, dict):
            raise record.error("doc", "the document, for the option image=; later versions need images=FILE")
        images[doc_id] = Record(record.file, f"{record.place}, doc", document).id(source.options["image"])
    return images


def _check_number(record: Record, samples: Path, told: Mapping[str, Record]) -> None:
    stated = record.fields.get("samples")
    if not isinstance(stated, int):
        return
    # It is that of the metric that was computed last, which not every sample may have.
    metrics = {key.rpartition(",")[0] for key in record.fields}
    numbers = {sum(metric in each.fields for each in told.values()) for metric in metrics}
    if stated not in numbers | {len(told)}:
        raise ValueError(
            f"{samples}: expected {stated} samples as {record.file} states, got {len(told)}; is the file "
            "whole?"
        )
