"""A table of the user's own, CSV, TSV, JSON, JSONL or Parquet, with a mapping of its columns."""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cotbal.collect.records import LONGEST_CELL, Record
from cotbal.collect.truth import some
from cotbal.data.conversations import asked, conversation, merged
from cotbal.data.fields import checked, filled
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_array
from cotbal.data.pictures import Pictures
from cotbal.data.task_folder import TaskFolder
from cotbal.data.turns import RepeatedIdError, Turn, Turns
from cotbal.data.vqa import Target
from cotbal.json_window import Digest
from cotbal.tasks import task_names

COLUMNS = {
    "question": "what is asked",
    "answer": "what is to be said",
    "image": "the picture's path inside --images; without the column the task is text alone",
    "id": "tells the row; its number by default",
    "split": "train, val or test; train by default",
}
NEEDED = ("question", "answer")
# By default the columns of these very names, where the table has them.
OPTIONAL = ("image", "id", "split")
SPLITS = ("train", "val", "test")
_ROWS = 4096
# Begins what stands for the picture of a row without one: no picture's path has it.
_NO_PICTURE = "\n"


def prepare_generic(
    annotations: Path,
    target: Target,
    inputs: Inputs,
    *,
    task: str,
    columns: Mapping[str, str],
    instruction: str | None = None,
    merge: bool = True,
    most_turns: int | None = None,
    validation: int = 0,
    test: int = 0,
    text_rows: bool = False,
) -> list[dict[str, Any]]:
    """Writes a task from a table; what was written.

    Args:
        annotations: the table.
        target: where to.
        inputs: what is read.
        task: its name.
        columns: the table's column for each of `COLUMNS`, otherwise that of its own name; of `OPTIONAL`
            where there is one, and "": none.
        instruction: response format instruction.
        merge: questions on one picture become one conversation.
        most_turns: of a conversation.
        validation: hold out so many pictures (rows, where there are none) of the training rows.
        test: likewise.
        text_rows: a row without a picture, in a table that has some, is text alone and no mistake.

    Raises:
        OSError, ValueError: the file is missing, cut off or of another form; a column that it does not have;
            a folder of pictures and no column with their paths.
    """
    task_names([task], "--task")
    columns = {name: name for name in NEEDED if name not in columns.values()} | dict(columns)
    if missing := [name for name in NEEDED if not columns.get(name)]:
        raise ValueError(
            f"--column: expected one for {', '.join(missing)}, as in --column {missing[0]}=COLUMN"
        )
    # First: its name may be no folder's.
    folder = TaskFolder(target.out, task, target.form, [annotations])
    columns = _with_own_names(annotations, columns)
    late = set(OPTIONAL) - columns.keys() - set(columns.values())
    columns = {name: column for name, column in columns.items() if column}
    if "image" not in columns and target.pictures.within:
        raise ValueError(
            "--images: expected a column with the pictures' paths, called image or named by --column "
            f"image=COLUMN, got none; leave --images {target.pictures.within} out where there is text alone"
        )
    turns = Turns(target.seed, task)
    for split, turn in _all(annotations, columns, late, target.pictures, inputs, text_rows):
        turns.add(split, turn)
    held, pictured = _held_out(turns, validation, test), "image" in columns
    options = {"columns": dict(columns), "instruction": instruction, "merge": merge, "most_turns": most_turns}
    options |= {"validation": validation, "test": test, "images": target.pictures.within}
    options |= {"text_rows": text_rows}
    groups = (group for group in turns.conversations("train") if group[0].image not in held)
    try:
        folder.train(_records(task, groups, pictured, merge, most_turns, instruction), inputs)
        for split in ("val", "test"):
            mine = {image for image, name in held.items() if name == split}
            asked_here = (_asked(turn, instruction, pictured) for turn in _held(turns, split, mine))
            folder.held_out(split, asked_here)
    except RepeatedIdError as error:
        raise ValueError(_places(annotations, columns, error)) from error
    return [folder.finish("generic", target.seed, inputs, **options)]


def _with_own_names(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """The columns, with those that have the very name of an optional field."""
    # To be asked for a column that there is not, a Parquet file answers with those that there are.
    first = next(_rows(path, {"": ""}, Inputs()), None)
    names = [] if first is None else [name for name in OPTIONAL if name in first.fields]
    taken = {*columns, *columns.values()}
    return {**columns, **{name: name for name in names if name not in taken}}


def _places(path: Path, columns: Mapping[str, str], repeated: RepeatedIdError) -> str:
    """The error with the file and the records of the id, for which the file is read again."""
    name, places = columns["id"], []
    for row in _rows(path, columns, Inputs()):
        # A row that was left out may have no id.
        with contextlib.suppress(ValueError):
            places += [row.place] if row.id(name) == repeated.id else []
    return (
        f"{path}: {repeated}; field {name!r} has it in {some(places)}. Give each row an id of its own, or "
        f"give --column id= and no column: rows then have their numbers"
    )


def _held_out(turns: Turns, validation: int, test: int) -> dict[str, str]:
    """The pictures that are held out, and for which split; ValueError where none is left."""
    splits = ["val"] * validation + ["test"] * test
    pictures = turns.pictures("train", len(splits) + 1)
    if 0 < len(pictures) <= len(splits):
        raise ValueError(
            f"--validation {validation} and --test {test}: expected pictures (or rows) left to train on, got "
            f"all {len(pictures)} held out; take fewer"
        )
    return dict(zip(pictures, splits, strict=False))


def _held(turns: Turns, split: str, images: set[str]) -> Iterator[Turn]:
    yield from turns.drawn(split)
    if images:
        yield from (turn for turn in turns.drawn("train") if turn.image in images)


def _asked(turn: Turn, instruction: str | None, pictured: bool) -> Turn:
    image = turn.image if pictured and not turn.image.startswith(_NO_PICTURE) else ""
    return turn._replace(question=asked(turn.question, instruction), image=image)


def _records(
    task: str,
    groups: Iterator[list[Turn]],
    pictured: bool,
    merge: bool,
    most: int | None,
    instruction: str | None,
) -> Iterator[dict[str, Any]]:
    for group in groups:
        if pictured and not group[0].image.startswith(_NO_PICTURE):
            yield from merged(task, [group], instruction=instruction, at_most=most if merge else 1)
            continue
        for turn in group:
            yield conversation(turn.id, None, [(asked(turn.question, instruction), turn.answer)])


def _all(
    path: Path,
    columns: Mapping[str, str],
    late: set[str],
    pictures: Pictures,
    inputs: Inputs,
    text_rows: bool,
) -> Iterator[tuple[str, Turn]]:
    """The split and the turn of each row; ValueError for one with a field that is `late`."""
    number = 0
    for number, row in enumerate(_rows(path, columns, inputs), start=1):
        if number == 1 and (absent := [pair for pair in columns.items() if pair[1] not in row.fields]):
            field, column = absent[0]
            raise ValueError(
                f"{path}: expected the column {column!r}, got {', '.join(map(str, row.fields))}; "
                f"--column {field}=COLUMN names the one with the {field}"
            )
        if found := sorted(late & row.fields.keys()):
            raise row.error(
                found[0],
                "no such field, as record 1 has none; give it to all (null where there is none), or "
                f"--column {found[0]}= to take none",
            )
        yield from inputs.parsed(_turn, number, row, columns, pictures, text_rows)
    if not number:
        raise ValueError(f"{path}: expected rows, got none")


def _turn(
    number: int, row: Record, columns: Mapping[str, str], pictures: Pictures, text_rows: bool
) -> tuple[str, Turn]:
    split = row.text(columns["split"]) if "split" in columns else "train"
    if split not in SPLITS:
        raise row.error(columns["split"], f"one of {', '.join(SPLITS)}; --column split= takes none")
    id = checked(row, columns["id"], row.id(columns["id"])) if "id" in columns else str(number)
    # Not by its place, where it has an id: the draws are those of any order of the rows.
    image = f"row {id}"
    if "image" in columns:
        path = _picture(row, columns["image"], pictures, text_rows)
        image = f"{_NO_PICTURE}{image}" if path is None else path
    return split, Turn(id, image, filled(row, columns["question"]), _answer(row, columns["answer"]))


def _picture(row: Record, name: str, pictures: Pictures, text_rows: bool) -> str | None:
    """The path of the row's picture, None where it has none and need not."""
    value = row.fields.get(name)
    if isinstance(value, (dict, bytes)):
        # As data sets of a hub have them.
        raise row.error(
            name, "the path of a picture; write those that the table holds to files, and their paths"
        )
    if value in (None, ""):
        if text_rows:
            return None
        raise row.error(name, "a text, the path of a picture; --text-rows takes rows without one")
    return pictures.path(row, name, row.text(name))


def _answer(row: Record, name: str) -> str:
    """The answer; a whole number, as a table of counting questions has it, is its digits."""
    value = row.fields.get(name)
    if type(value) is int:
        return str(value)
    if value is not None and not isinstance(value, str):
        raise row.error(name, "a text or a whole number; write others as the text that a model is to say")
    return filled(row, name)


def _rows(path: Path, columns: Mapping[str, str], inputs: Inputs) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        return read_array(path, inputs)
    if suffix in (".csv", ".tsv"):
        return _csv(path, inputs)
    if suffix == ".parquet":
        return _parquet(path, columns, inputs)
    raise ValueError(f"{path}: expected .csv, .tsv, .json, .jsonl or .parquet, got {path.suffix!r}")


def _csv(path: Path, inputs: Inputs) -> Iterator[Record]:
    reading = inputs.reading(path)
    number = 0
    try:
        with path.open("rb") as stream:
            csv.field_size_limit(LONGEST_CELL)
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = csv.reader(_lines(stream, reading), delimiter=delimiter, strict=True)
            header = next(rows, [])
            if len(set(header)) != len(header):
                raise ValueError(f"expected columns of different names, got {header}")
            number = 1
            while (row := next(rows, None)) is not None:
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    raise ValueError(f"expected {len(header)} cells, got {len(row)}")
                yield Record(path, f"record {number}", dict(zip(header, row, strict=True)))
                number += 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: record {number}: expected UTF-8, got {error}") from error
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: record {number}: expected a table, is it whole? {error}") from error


def _lines(stream: BinaryIO, reading: Digest) -> Iterator[str]:
    for number, line in enumerate(stream):
        reading.update(line)
        yield line.decode("utf-8" if number else "utf-8-sig")


def _parquet(path: Path, columns: Mapping[str, str], inputs: Inputs) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    reading = inputs.reading(path)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            reading.update(block)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            needed = sorted(set(columns.values()))
            if not set(needed) <= set(names):
                # Nothing need be read to tell which there are.
                yield Record(path, "record 1", dict.fromkeys(names))
                return
            # Others may hold the pictures themselves, which would fill the memory.
            for batch in file.iter_batches(batch_size=_ROWS, columns=needed):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(path, f"record {number}", fields)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: record {number + 1}: expected a Parquet file, is it whole? {error}"
        ) from error
