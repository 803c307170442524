"""Format `lmms-eval`: the result files of lmms-eval 0.2.4 to 0.7 (`--output_path`, `--log_samples`).

`from` is lmms-eval's name of the task, `metric` that of the metric without its filter.

- `<date>_results.json`: `{"results": {task: {"alias", "samples", "exact_match,none",
  "exact_match_stderr,none", ...}}, "higher_is_better": {task: {metric: true}}, "n-samples", "configs",
  "versions", ...}`.
- `<date>_samples_<task>.jsonl` beside it: `{"doc_id", "doc_hash", "target", "filtered_resps", ..., metric:
  value}`, a line per item. Only numbers are items: tasks that aggregate over objects (COCO's CIDEr, MME)
  need `items=no`. Up to 0.3 a line has the document as `doc`, whose image may be named by the option
  `image`; later ones do not say which items share an image, so that `images` gives it from a file.
"""

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
    key = _metric_key(record, source)
    higher = (content.get("higher_is_better") or {}).get(source.name) or {}
    samples = file.with_name(f"{file.name.removesuffix(_RESULTS)}_samples_{source.name}.jsonl")
    if not (source.items and samples.is_file()):
        return Found((file,), record.number(key), higher_is_better=higher.get(source.metric))
    records = by_id(read_records(samples), "doc_id")
    _check_number(record, samples, len(records))
    # With the hash of the document: another version of the data set is another item.
    names = {doc_id: f"{doc_id} (document {each.text('doc_hash')[:12]})" for doc_id, each in records.items()}
    return Found(
        (file, samples, *images_files(source)),
        record.number(key),
        {names[doc_id]: score for doc_id, score in _items(records, source).items()},
        {names[doc_id]: image for doc_id, image in _images(records, source).items()},
        higher.get(source.metric),
    )


def _results_of(folder: Path, source: Source) -> tuple[Path, dict[str, Any]]:
    """The one result file in the folder, or below it, that has the task."""
    files = find_files(folder, f"**/*{_RESULTS}", parts=None)
    contents = {file: read_json(file) for file in files}
    for file, content in contents.items():
        if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
            raise ValueError(f"{file}: expected lmms-eval's results, an object with 'results', got none")
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


def _metric_key(record: Record, source: Source) -> str:
    """The key "metric,filter" of the results."""
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
    raise ValueError(
        f"{record.file}: {record.place}: no metric {source.metric!r}"
        f"{f' with filter {wanted!r}' if wanted else ''}; there are {', '.join(metrics)}"
    )


def _items(records: Mapping[str, Record], source: Source) -> dict[str, float]:
    for record in records.values():
        if isinstance(record.fields.get(source.metric), (dict, list)):
            raise record.error(source.metric, "a number; a score that is no mean over items needs items=no")
    return {doc_id: record.number(source.metric) for doc_id, record in records.items()}


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


def _check_number(record: Record, samples: Path, n_items: int) -> None:
    stated = record.fields.get("samples")
    if isinstance(stated, int) and stated != n_items:
        raise ValueError(
            f"{samples}: expected {stated} samples as {record.file} states, got {n_items}; is the file whole?"
        )
