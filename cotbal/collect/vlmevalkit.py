"""Format `vlmevalkit`: the result files of VLMEvalKit 0.2 and 0.3 (`run.py --work-dir`).

`from` is VLMEvalKit's name of the data set, `metric` a column of its score file ("Overall").

- The score, `<model>_<data>_acc` or `_score`, .csv or .json: a table of one row, or of one per split (column
  `split` or `Split`, else the first; chosen by the option), or a JSON object `{metric: number}` (captions).
  Where its name has a judge's, so has `from`: MMVet_gpt-4-turbo, with split=Overall. The row of short answers
  has columns beside "Overall", of each split or category: as metric, the items are those of that one.
- The items, one table in .tsv, .json or .xlsx (PRED_FORMAT; xlsx needs openpyxl) with a column `index`:
  `<model>_<data>_results` (column eval_score, short answers), `_<judge>_result` (hit, multiple choice),
  `_auxmatch` (score, yes or no), `_detail` (hit, RefCOCO). Other files by the options `detail` and `column`.
  The tool's score may be their mean or that in percent. Pickles are never read.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

from cotbal.collect.found import Found
from cotbal.collect.images import IMAGES_OPTION, images_files, images_from_file
from cotbal.collect.locate import find_files
from cotbal.collect.records import Record, by_id, read_json, read_records
from cotbal.collect.source import Source
from cotbal.collect.truth import some

OPTIONS = {
    "split": "the row of the score file, and of the items if they have that column",
    "detail": "the end of the items' file name, such as _results",
    "column": "the items' column",
    "image": "the items' column that names the image",
    "images": IMAGES_OPTION.format("index"),
}
_DETAILS = {"_results": "eval_score", "_*_result": "hit", "_auxmatch": "score", "_detail": "hit"}
_SCORES = ("_acc.csv", "_acc.json", "_score.csv", "_score.json")
_TABLES = (".tsv", ".json", ".csv", ".xlsx")


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the score and the items of a run on one data set of VLMEvalKit."""
    file = _one(folder, source, _SCORES)
    if file is None:
        _refuse_without_judge(folder, source)
        raise FileNotFoundError(
            2, "No such score file", f"{folder}/**/*_{source.name}{{{','.join(_SCORES)}}}"
        )
    score = _score(file, source)
    if not source.items:
        return Found((file,), score)
    suffixes = [source.options["detail"]] if "detail" in source.options else list(_DETAILS)
    ends = [suffix + end for suffix in suffixes for end in _TABLES]
    others = tuple(f"{each.stem.rpartition('_')[0]}_" for each in _scores_of_longer_names(folder, source))
    details = _one(folder, source, ends, others)
    if details is None:
        _refuse_pickles(folder, source, suffixes)
        if "detail" in source.options:
            raise FileNotFoundError(2, "No such items' file", f"{folder}/**/*_{source.name}{suffixes[0]}.*")
        return Found((file,), score)
    records = _items_of(read_records(details), source)
    column = source.options.get("column") or _column(details, source)
    if column not in records[0].fields:
        known = ", ".join(map(str, records[0].fields))
        error = records[0].error(column, "a number")
        raise ValueError(f"{error}; say column=... ({known}), or items=no for the tool's own score")
    by_key = by_id(records, "index")
    images = {}
    if "images" in source.options:
        images = images_from_file(source, by_key, ("index", "id"))
    elif "image" in source.options:
        images = {key: record.id(source.options["image"]) for key, record in by_key.items()}
    items = {key: record.number(column) for key, record in by_key.items()}
    return Found((file, details, *images_files(source)), score, items, images, percent=True)


def _one(folder: Path, source: Source, ends: Sequence[str], others: tuple[str, ...] = ()) -> Path | None:
    """The one file of the data set with one of the ends, None where there is none.

    Args:
        folder: a run's.
        source: names the data set.
        ends: of the file's name.
        others: beginnings of the names of other data sets' files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "No such folder", str(folder))
    patterns = [f"**/*_{glob.escape(source.name)}{end}" for end in ends]
    having = [pattern for pattern in patterns if any(folder.glob(pattern))]
    parts = None if others else 1
    found = {file for pattern in having for file in find_files(folder, pattern, parts=parts)}
    found = {file for file in found if not file.name.startswith(others)}
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"{source}: expected one file, got {', '.join(sorted(map(str, found)))}; keep one, or choose "
            "between items by detail=..."
        )
    return found.pop()


def _scores_of_longer_names(folder: Path, source: Source) -> list[Path]:
    """Score files with a judge's name behind the data set's, or of another set, as MMBench_DEV_EN_V11."""
    return [file for end in _SCORES for file in folder.glob(f"**/*_{glob.escape(source.name)}_*{end}")]


def _refuse_without_judge(folder: Path, source: Source) -> None:
    """ValueError where score files differ from the wanted one by what follows the data set's name."""
    if found := _scores_of_longer_names(folder, source):
        name = source.name + found[0].stem.rpartition("_")[0].rpartition(source.name)[2]
        got = some(sorted(map(str, found)))
        raise ValueError(
            f"{source}: expected the score of {source.name!r}, got {got}; the judge is a part of the name, "
            f"as in from={name}"
        )


def _refuse_pickles(folder: Path, source: Source, suffixes: list[str]) -> None:
    for suffix in suffixes:
        for file in folder.glob(f"**/*_{glob.escape(source.name)}{suffix}.pkl"):
            read_records(file)


def _score(file: Path, source: Source) -> float:
    if file.suffix == ".json" and isinstance(content := read_json(file), dict):
        return Record(file, "the object", content).number(source.metric)
    rows = read_records(file)
    # Judged answers have a row for each Category, Task&Skill or Subject.
    column = _split_of(rows[0]) or (next(iter(rows[0].fields)) if len(rows) > 1 else None)
    rows = _in_split(rows, source, column, required=True)
    if len(rows) != 1:
        splits = [str(row.fields[column]) for row in rows] if column else []
        raise ValueError(f"{file}: expected one row, got {len(rows)}; say split=... ({', '.join(splits)})")
    return rows[0].number(source.metric)


def _items_of(records: list[Record], source: Source) -> list[Record]:
    """Those of the split that the option chooses, or of the split or category whose column the score is."""
    if "split" in source.options:
        return _in_split(records, source, _split_of(records[0]))
    columns = [name for name in (_split_of(records[0]), "category") if name in records[0].fields]
    named = ([each for each in records if str(each.fields[name]) == source.metric] for name in columns)
    return next(filter(None, named), records)


def _in_split(
    records: list[Record], source: Source, column: str | None, *, required: bool = False
) -> list[Record]:
    wanted = source.options.get("split")
    if wanted is None or (column is None and not required):
        return records
    chosen = [record for record in records if column is not None and str(record.fields[column]) == wanted]
    if not chosen:
        splits = sorted({str(record.fields[column]) for record in records}) if column else ["no column split"]
        named = f"; its own column is metric={wanted}" if wanted in records[0].fields else ""
        named = named if required else f"{named}; items=no takes the tool's own score"
        raise ValueError(f"{records[0].file}: no split {wanted!r}; there is {', '.join(splits)}{named}")
    return chosen


def _split_of(record: Record) -> str | None:
    return next((name for name in ("split", "Split") if name in record.fields), None)


def _column(file: Path, source: Source) -> str:
    end = file.stem.rpartition(source.name)[2]
    for suffix, column in _DETAILS.items():
        if end == suffix or (suffix == "_*_result" and end.endswith("_result")):
            return column
    raise ValueError(f"{source}: {file}: name the items' column by column=...")
