"""Records of JSON, JSONL, CSV, TSV and Excel files, each of which knows its file and place."""

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of a table: a picture in base64, as VLMEvalKit's have, is longer than Python's 131,072 characters.
LONGEST_CELL = 2**31 - 1
# Of a picture, by VLMEvalKit's own rule: what is longer is the picture itself.
LONGEST_NAME = 64
LONGEST_PATH = 4096


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        file: where it stands.
        place: its place there, in words ("line 3").
        fields: its content.
    """

    file: Path
    place: str
    fields: dict[str, Any]

    def error(self, name: str, expected: str) -> ValueError:
        """Return the error that tells what a field should have been."""
        got = repr(self.fields[name]) if name in self.fields else "nothing"
        got = got if len(got) <= 80 else f"{got[:77]}..."
        return ValueError(f"{self.file}: {self.place}, field {name!r}: expected {expected}, got {got}")

    def id(self, name: str) -> str:
        """Return an id, text or whole number, as text."""
        value = self.fields.get(name)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) not in (int, str) or value == "":
            raise self.error(name, "an id")
        return str(value)

    def text(self, name: str) -> str:
        """Return a text."""
        if not isinstance(self.fields.get(name), str):
            raise self.error(name, "a text")
        return str(self.fields[name])

    def number(self, name: str) -> float:
        """Return a finite number; True and False count as 1 and 0, as does their spelling in a table."""
        value = self.fields.get(name)
        if isinstance(value, str):
            # Python reads 1_0 as 10.
            value = {"True": 1, "False": 0}.get(value, value if "_" not in value else None)
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise self.error(name, "a number") from None
        if not math.isfinite(number):
            raise self.error(name, "a finite number")
        return number


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; ValueError names the file if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_distinct)
    except ValueError as error:
        lines = "; an object per line is JSONL: name it .jsonl" if "Extra data" in str(error) else ""
        raise ValueError(f"{path}: expected JSON, is it whole? {error}{lines}") from error


def read_records(path: Path) -> list[Record]:
    """Return the records of a file by its suffix: .jsonl, .json, .csv, .tsv or .xlsx.

    A JSON file holds a list of objects, an object of objects (whose keys become the field "id"), or an
    object with such a list under "annotations", "data" or "questions".

    Raises:
        OSError: the file cannot be read.
        ValueError: another suffix, content that is not of that kind, no record; the place is named.
        ModuleNotFoundError: an Excel file without openpyxl.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".xlsx": _xlsx}
    suffix = path.suffix.lower()
    if suffix == ".pkl":
        raise ValueError(
            f"{path}: pickles are not read, they can run code; let the tool write tsv, csv, json or xlsx"
        )
    if suffix not in readers:
        raise ValueError(f"{path}: expected one of {', '.join(readers)}, got {path.suffix!r}")
    try:
        records = [Record(path, place, fields) for place, fields in readers[suffix](path)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8, got {error}") from error
    if not records:
        raise ValueError(f"{path}: expected records, got none")
    return records


def by_id(records: Iterable[Record], name: str) -> dict[str, Record]:
    """Return the records by the id in a field; ValueError names an id that comes twice."""
    found: dict[str, Record] = {}
    for record in records:
        key = record.id(name)
        if key in found:
            raise ValueError(
                f"{record.file}: {record.place}, field {name!r}: id {key!r} stands twice, "
                f"first at {found[key].place}"
            )
        found[key] = record
    return found


def images_of(records: Mapping[str, Record], name: str, given: str | None = None) -> dict[str, str]:
    """Return {id: image} of the records that name one, or several, in a field; null or what is empty is none.

    The field that the user has `given` instead names one in every record. In VLMEvalKit's tables the first
    row of a picture holds it in base64, the others that row's id: it is the image of all, by its hash.
    """
    found = {
        key: _image(each, given or name)
        for key, each in records.items()
        if given is not None or each.fields.get(name) not in (None, "", [])
    }
    pictures = {
        # Each question on a picture would keep a copy of it; a path is shorter.
        key: hashlib.sha256(image.encode(errors="surrogatepass")).hexdigest()
        if len(image) > LONGEST_PATH
        else image
        for key, image in found.items()
        if len(image) > LONGEST_NAME
    }
    return {key: pictures.get(key) or pictures.get(image, image) for key, image in found.items()}


def _image(record: Record, name: str) -> str:
    """The image, or several of one item as one text."""
    value = record.fields.get(name)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return json.dumps(value)
    return record.id(name)


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                array = "; an array is JSON: name it .json" if number == 1 and line[0] == "[" else ""
                raise ValueError(
                    f"{path}: line {number}: expected JSON, is it whole? {error}{array}"
                ) from error
            yield f"line {number}", _object(path, f"line {number}", fields)


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_json(path)
    if isinstance(content, dict):
        lists = [key for key in ("annotations", "data", "questions") if isinstance(content.get(key), list)]
        if len(lists) == 1:
            content = content[lists[0]]
        elif content and all(isinstance(value, dict) for value in content.values()):
            content = [{"id": key, **value} for key, value in content.items()]
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of objects, got {type(content).__name__}")
    for number, fields in enumerate(content, start=1):
        yield f"record {number}", _object(path, f"record {number}", fields)


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        try:
            csv.field_size_limit(LONGEST_CELL)
            rows = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            yield from _rows(path, ((f"line {rows.line_num}", row) for row in rows if row))
        except csv.Error as error:
            raise ValueError(f"{path}: expected a table, is it whole? {error}") from error


def _xlsx(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from zipfile import BadZipFile

    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path}: expected an Excel file, is it whole? {error}") from error
    try:
        rows = enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
        # Excel keeps rows that are formatted and empty.
        filled = (row for row in rows if any(cell is not None for cell in row[1]))
        yield from _rows(path, ((f"row {number}", list(row)) for number, row in filled))
    finally:
        book.close()


def _rows(path: Path, rows: Iterator[tuple[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    header = next(rows, ("", []))[1]
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: expected columns of different names, got {header}")
    for place, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}: {place}: expected {len(header)} cells, got {len(row)}")
        yield place, dict(zip(header, row, strict=True))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; JSON itself would let the last of two equal keys win in silence."""
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return members


def _object(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {place}: expected an object, got {type(value).__name__}")
    return value
