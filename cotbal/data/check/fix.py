"""Mended copies of the files that were checked.

OUT/NAME             every file, under its own name; a record that needs nothing keeps its text
OUT/changes.jsonl    every change: file, record, field, what was done, before and after
OUT/fixed.json       how many, and hashes; written last, so that without it the folder is unfinished
                     or of another origin, and nothing in it is replaced
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cotbal.data.check.mend import Change, mended
from cotbal.data.check.repeats import Place
from cotbal.data.check.run import Check, Source
from cotbal.data.own_folder import begin, check_own, finish
from cotbal.data.turns import to_json
from cotbal.files import check_outputs, remove_leftovers, write_text_atomically, writing_atomically
from cotbal.json_records import RecordFile, read_records, record_file
from cotbal.json_window import Record

SCHEMA_VERSION = 1
FIXED, CHANGES = "fixed.json", "changes.jsonl"


def write_fixed(found: Check, out: Path) -> dict[str, Any]:
    """Writes the mended copies of a finished check; the content of fixed.json.

    Args:
        found: the check, which has run.
        out: a folder that none of the files is in.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the folder is that of the files, or a record cannot be read; nothing half-written is left.
    """
    names = check_folder(found.sources, out)
    _refuse(found)
    begin(out, FIXED)
    for folder in {(out / name).parent for name in names} | {out}:
        remove_leftovers(folder)
    repeated = _Repeated(repeat.place for repeat in found.repeats.records() if repeat.equal)
    with writing_atomically(out / CHANGES) as changes:
        files = [
            {"file": name, **_write(found, number, out / name, name, repeated, changes)}
            for number, name in enumerate(names)
        ]
    content = {"schema_version": SCHEMA_VERSION, "files": files}
    write_text_atomically(out / FIXED, json.dumps(content, indent=1) + "\n")
    finish(out)
    return content


class _Repeated:
    """Tells of one place after another whether its record goes."""

    def __init__(self, places: Iterator[Place]) -> None:
        self._places = places
        self._next = next(places, None)

    def goes(self, place: Place) -> bool:
        if place != self._next:
            return False
        self._next = next(self._places, None)
        return True


def check_folder(sources: Sequence[Source], out: Path) -> list[str]:
    """The names that the copies of the files will have in the folder.

    Raises:
        ValueError: one of the files, or one of another origin, would be lost; or one is given twice.
    """
    paths = [source.path for source in sources]
    names = _names(paths)
    check_outputs([("--fix", out / name) for name in (*names, CHANGES, FIXED)], paths)
    check_own("--fix", out, FIXED, [*names, CHANGES])
    return names


def _refuse(found: Check) -> None:
    for kind in ("file", "line"):
        if count := found.findings.counts[kind]:
            raise ValueError(
                f"--fix: expected files of which every record can be read, got errors of kind {kind!r} "
                f"({count:,}); mend those first, a copy would lack the records"
            )


def _write(
    found: Check, number: int, path: Path, name: str, repeated: _Repeated, changes: BinaryIO
) -> dict[str, Any]:
    """Writes the copy of a file; its sizes and hash."""
    source = found.sources[number].path
    changed = taken_out = 0
    with record_file(path, "jsonl" if source.suffix.lower() == ".jsonl" else "json") as file:
        for place, record in _records(found, number):
            if repeated.goes(place):
                taken_out += 1
                gone = Change("", "taken out, equal to one before it", None, None)
                _tell(changes, name, place, [gone])
            else:
                changed += _copy(file, record, changes, name, place)
        digest = file.close()
    return {"records": file.records, "changed": changed, "taken_out": taken_out, "sha256": digest}


def _names(paths: list[Path]) -> list[str]:
    """The files' paths below the folder that holds them all."""
    # Links keep their names: what a cache has them lead to is named by its hash.
    whole = [Path(os.path.abspath(path)) for path in paths]
    if len(set(whole)) < len(paths):
        raise ValueError("--fix: expected each file once, got one twice")
    top = os.path.commonpath([path.parent for path in whole])
    return [str(path.relative_to(top)) for path in whole]


def _records(found: Check, number: int) -> Iterator[tuple[Place, Record]]:
    splits = list(dict.fromkeys(source.split for source in found.sources))
    source = found.sources[number]
    for place, record in enumerate(read_records(source.path), start=1):
        yield Place(splits.index(source.split), number, place), record


def _copy(file: RecordFile, record: Record, changes: BinaryIO, name: str, place: Place) -> bool:
    """Writes a record, mended where it has to be; whether it was."""
    fields, changed = mended(record.content)
    try:
        file.add(to_json(fields) if changed else record.text.replace("\r", " ").replace("\n", " "))
    except RecursionError as error:
        raise ValueError(f"{name}: record {place.record}: nested too deeply to be written again") from error
    _tell(changes, name, place, changed)
    return bool(changed)


def _tell(changes: BinaryIO, name: str, place: Place, changed: list[Change]) -> None:
    for change in changed:
        line = {"file": name, "record": place.record, **change._asdict()}
        changes.write(json.dumps(line).encode() + b"\n")
