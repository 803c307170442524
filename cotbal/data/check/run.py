"""The check of files of records: every record, every picture, and what stands twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.data.check.crew import Crew, crew
from cotbal.data.check.findings import Finding, Findings
from cotbal.data.check.pictures import Look, Seen
from cotbal.data.check.repeats import NO_PICTURE, Place, Repeat, Repeats
from cotbal.data.check.schema import HELD_OUT, Examined, Settings
from cotbal.data.check.tally import EDGES, Tally
from cotbal.data.inputs import Inputs
from cotbal.files import writable
from cotbal.json_records import Broken, read_each
from cotbal.json_window import Record

SCHEMA_VERSION = 1
# Records that are examined together: so many, or so many characters.
_BATCH = 256
_CHARACTERS = 1 << 20


class Source(NamedTuple):
    """A file of records.

    Attributes:
        split: that it belongs to.
        path: of the file.
    """

    split: str
    path: Path


class _Item(NamedTuple):
    place: Place
    record: Record


class _Mistake(NamedTuple):
    place: Place
    kind: str
    message: str


class _Batch(NamedTuple):
    """Records of a file that follow one another, and what could not be read among and after them."""

    file: Path
    items: list[_Item]
    broken: list[_Mistake]

    @property
    def records(self) -> list[Record]:
        return [item.record for item in self.items]


@dataclass
class _Turned:
    """Records of a task with pictures that EXIF turns: the first, and how many."""

    task: str
    place: Place
    image: str
    orientation: int
    records: int = 0


class Check:
    """The check of some files.

    Args:
        sources: the files, those of a split together.
        inputs: what is told of the bytes that are read.
        settings: what records are held against.
        images: the pictures' folder; None: no picture is opened.
        workers: processes; the result is the same with any number.
        accepted: kinds of findings that count as warnings.

    Attributes:
        findings: what is wrong.
        tally: sizes by split and task.
        records: how many there are in each file.
        broken: how many of each file could not be read.
        repeats: what stands twice.
        pictures: how many were opened.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        inputs: Inputs,
        settings: Settings,
        *,
        images: Path | None = None,
        workers: int = 1,
        accepted: Sequence[str] = (),
    ) -> None:
        self.sources, self.settings, self.images = sources, settings, images
        self._inputs, self._workers = inputs, workers
        self._splits = list(dict.fromkeys(source.split for source in sources))
        self._names = [writable(str(source.path)) for source in sources]
        self.findings, self.tally, self.repeats = Findings(accepted), Tally(), Repeats()
        self.records, self.broken = [0] * len(sources), [0] * len(sources)
        self.pictures = 0
        # None of a file that could not be read to its end.
        self._hashes: list[str | None] = [None] * len(sources)
        self._seen = Seen()
        # By the number of the task.
        self._turned: dict[int, _Turned] = {}

    def run(self) -> None:
        """Reads everything once.

        Raises:
            OSError: a file cannot be read.
            ValueError: no such tokenizer, or a process was killed.
        """
        with crew(self.settings, self._workers) as examining:
            for batch, examined in examining.examined(self._batches()):
                self._take(batch, examined, examining)
        for repeat in self.repeats.found():
            self.findings.add(self._repeat(repeat))
        for place, count, first, last in self._seen.copies():
            where = Place.from_bytes(place)
            got = f"{count:,} files of the same bytes, {first!r} and {last!r} among them"
            self._add(where, "copied-picture", "image", "a picture of its own", got)
        for each in self._turned.values():
            got = (
                f"{each.records:,} record{'s' * (each.records > 1)} of {each.task} with one that EXIF turns, "
                f"such as {each.image!r} (orientation {each.orientation})"
            )
            self._add(each.place, "turned-picture", "image", "pictures stored as they are to be seen", got)

    def content(self) -> dict[str, Any]:
        """All but the findings themselves."""
        return {
            "schema_version": SCHEMA_VERSION,
            "errors": self.findings.of("error"),
            "warnings": self.findings.of("warning"),
            "files": [
                {"file": name, "split": source.split, "records": count, "broken": broken, "sha256": digest}
                for name, source, count, broken, digest in zip(
                    self._names, self.sources, self.records, self.broken, self._hashes, strict=True
                )
            ],
            "pictures": None if self.images is None else self.pictures,
            "unit": "words" if self.settings.tokenizer is None else "tokens",
            "tokenizer": self.settings.tokenizer,
            "most_tokens": self.settings.most_tokens,
            "image_tokens": self.settings.image_tokens,
            "asked_again": self.repeats.asked_again,
            "bins": list(EDGES),
            "tasks": [
                {"split": split, "task": task, **sizes.content()}
                for (split, task), sizes in self.tally.sizes.items()
            ],
        }

    def samples(self) -> list[dict[str, Any]]:
        """A few whole records of each task, with their pictures' files."""
        return [
            {"task": task, "question": each["question"], "answer": each["answer"], "image": self._file(each)}
            for (_, task), sizes in self.tally.sizes.items()
            for _, each in sizes.samples
        ]

    def _file(self, sample: dict[str, str]) -> Path | None:
        if self.images is None or "image" not in sample:
            return None
        found = self._seen.get(sample["image"])
        return self.images / sample["image"] if found is not None and found.kind is None else None

    def _batches(self) -> Iterator[_Batch]:
        """Every record, a few together; what cannot be read is a finding, and the next file follows."""
        for number, source in enumerate(self.sources):
            split, last = self._splits.index(source.split), False
            batch, size = _Batch(source.path, [], []), 0
            for record, each in enumerate(read_each(source.path, self._inputs.reading(source.path)), start=1):
                place = Place(split, number, record)
                if isinstance(each, Broken):
                    last = each.last
                    self.broken[number] += 1
                    batch.broken.append(_Mistake(place, "file" if last else "line", each.message))
                else:
                    self.records[number] += 1
                    batch.items.append(_Item(place, each))
                    size += len(each.text)
                if len(batch.items) + len(batch.broken) == _BATCH or size > _CHARACTERS:
                    yield batch
                    batch, size = _Batch(source.path, [], []), 0
            yield batch
            self._hashes[number] = None if last else self._inputs.sha256(source.path)

    def _take(self, batch: _Batch, examined: list[Examined], examining: Crew) -> None:
        self._look(batch, examined, examining)
        rows = []
        for item, each in zip(batch.items, examined, strict=True):
            for fault in each.faults:
                self._add(item.place, *fault)
            fields = item.record.content
            self.tally.add(self._splits[item.place.split], each, fields, "image" in fields)
            image = NO_PICTURE if each.image is None else self._picture(item.place, each)
            rows.append((item.place, each, image, self.tally.number(each.task), item.record.text))
        self.repeats.extend(rows)
        for place, kind, message in batch.broken:
            expected, _, got = message.removeprefix("expected ").partition(", got ")
            told = (expected, got) if got else ("a JSON object in UTF-8", message)
            self._add(place, kind, "", *told)

    def _look(self, batch: _Batch, examined: list[Examined], examining: Crew) -> None:
        """Opens the pictures of a batch that have not been opened yet."""
        if self.images is None:
            return
        wanted: dict[str, Place] = {}
        for item, each in zip(batch.items, examined, strict=True):
            if each.image is not None and each.image not in wanted and self._seen.get(each.image) is None:
                wanted[each.image] = item.place
        folder = self.images
        looks = examining.looks([folder / path for path in wanted])
        for (path, place), found in zip(wanted.items(), looks, strict=True):
            self._seen.put(path, found, place.to_bytes())
            self.pictures += 1

    def _picture(self, place: Place, each: Examined) -> bytes:
        """16 bytes that tell a record's picture: of its content, else of its path."""
        assert each.image is not None
        found = self._seen.get(each.image) if self.images is not None else None
        if found is not None and found.kind is not None:
            self._add(place, found.kind, "image", f"{found.expected} at {each.image!r}", found.got)
        elif found is not None:
            self._boxes(place, each, found)
            if found.orientation != 1:
                task = "no task" if each.task is None else f"task {each.task!r}"
                first = _Turned(task, place, each.image, found.orientation)
                self._turned.setdefault(self.tally.number(each.task), first).records += 1
        if found is not None and found.digest:
            return found.digest
        return blake2b(each.image.encode(), digest_size=16).digest()

    def _boxes(self, place: Place, each: Examined, found: Look) -> None:
        for field, box in each.boxes:
            if box.in_padding(found.width, found.height):
                expected = f"a box inside the picture of {found.width} x {found.height}, padded to a square"
                self._add(place, "box-in-padding", field, expected, box.text)

    def _repeat(self, repeat: Repeat) -> Finding:
        first = f"record {repeat.first.record:,} of {self._names[repeat.first.file]}"
        split = self._splits[repeat.first.split]
        field = {"leaked-picture": "image", "shared-picture": "image", "repeated-id": "question_id"}.get(
            repeat.kind, ""
        )
        if repeat.kind in ("leaked-question", "repeated-question"):
            field = "text" if repeat.turn == HELD_OUT else f"conversations[{2 * repeat.turn}].value"
        expected, got = {
            "repeated-record": ("a record that does not stand in the split yet", f"that of {first}"),
            "repeated-id": ("an id that does not stand in the file yet", f"that of {first}"),
            "repeated-question": ("a question not yet asked of the picture", f"that of {first}, same answer"),
            "leaked-question": (f"a question and picture that are not in {split}", f"those of {first}"),
            "leaked-picture": (f"a picture that the task does not have in {split}", f"that of {first}"),
            "shared-picture": (f"a picture that is not in {split}", f"that of {first}, of another task"),
        }[repeat.kind]
        return Finding(repeat.kind, self._names[repeat.place.file], repeat.place.record, field, expected, got)

    def _add(self, place: Place, kind: str, field: str, expected: str, got: str) -> None:
        self.findings.add(Finding(kind, self._names[place.file], place.record, field, expected, got))
