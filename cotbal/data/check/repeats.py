"""What stands twice: records and questions within a split, questions and pictures across splits.

Each thing is a row of bytes whose beginning tells what it is and whose end tells where; sorted on disk, equal
things are neighbours, so that no more than one row is held in memory.
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

from cotbal.data.check.schema import Examined
from cotbal.data.turns import temporary_database

NO_PICTURE = bytes(16)
# A place is 8 bytes: the split, the file, the record; in the order of reading.
_PLACE = 8
# KiB for each kind of rows, while they are written and while they are sorted.
CACHE = 4096


class Place(NamedTuple):
    """Where a record stands: numbers of its split, its file and, from 1, itself."""

    split: int
    file: int
    record: int

    def to_bytes(self) -> bytes:
        """8 bytes that sort as the places do."""
        return (self.split << 56 | self.file << 40 | self.record).to_bytes(_PLACE, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Place":
        """The place of 8 bytes."""
        value = int.from_bytes(data, "big")
        return cls(value >> 56, value >> 40 & 0xFFFF, value & 0xFF_FFFF_FFFF)


class Repeat(NamedTuple):
    """A thing that stands twice.

    Attributes:
        kind: of the finding.
        place: where it stands again.
        turn: of the question.
        first: where it stands already.
        equal: whether its text is equal byte by byte to that of one before it.
    """

    kind: str
    place: Place
    turn: int
    first: Place
    equal: bool = False


class Rows:
    """Rows of bytes on disk, sorted when all are there."""

    def __init__(self) -> None:
        self._database = temporary_database(CACHE)
        self._database.execute("CREATE TABLE line (content BLOB)")

    def extend(self, rows: Iterable[bytes]) -> None:
        """Takes rows."""
        self._database.executemany("INSERT INTO line VALUES (?)", zip(rows))

    def __iter__(self) -> Iterator[bytes]:
        for (content,) in self._database.execute("SELECT content FROM line ORDER BY content"):
            yield content


class Repeats:
    """Takes every record and then tells what stands twice.

    Attributes:
        asked_again: questions on one picture that have several answers in a split, known after `questions`.
    """

    def __init__(self) -> None:
        self._records, self._questions, self._pictures, self._ids = Rows(), Rows(), Rows(), Rows()
        self.asked_again = 0

    def extend(self, found: Iterable[tuple[Place, Examined, bytes, int, str]]) -> None:
        """Takes records: place, what it is, 16 bytes that tell its picture, its task's number, its text."""
        records, questions, pictures, ids = [], [], [], []
        for place, examined, image, task, text in found:
            where = place.to_bytes()
            split, number = where[:1], int.from_bytes(where, "big")
            if examined.digest:
                records.append(image + examined.digest + where + _hash(text, 8))
            questions += [
                image + digest + split + (answer << 96 | number << 32 | turn).to_bytes(16, "big")
                for turn, digest, answer in examined.questions
            ]
            if image != NO_PICTURE:
                pictures.append(image + split + task.to_bytes(2, "big") + where)
            if examined.held_out and examined.id is not None:
                ids.append(where[1:3] + _hash(examined.id, 16) + where)
        for rows, new in zip(
            (self._records, self._questions, self._pictures, self._ids),
            (records, questions, pictures, ids),
            strict=True,
        ):
            rows.extend(new)

    def found(self) -> Iterator[Repeat]:
        """All repeats, kind after kind, each in the order of the records."""
        yield from self.records()
        yield from self.ids()
        yield from self._without_records(_in_order(self._repeated_questions()))
        yield from _in_order(self._leaked_pictures())

    def records(self) -> Iterator[Repeat]:
        """Conversations that stand in their split already, on the same picture, in the order of places."""
        return _in_order(self._repeated_records())

    def ids(self) -> Iterator[Repeat]:
        """Held-out questions whose id stands in their file already."""
        return _in_order(self._repeated_ids())

    def _repeated_records(self) -> Iterator[Repeat]:
        # The split is the place's first byte.
        before, texts = b"", set()
        for first, row in _again(self._records, 33):
            if first != before:
                before, texts = first, {first[40:]}
            yield _repeat("repeated-record", row[32:40], first[32:40], equal=row[40:] in texts)
            texts.add(row[40:])

    def _repeated_ids(self) -> Iterator[Repeat]:
        for first, row in _again(self._ids, 18):
            yield _repeat("repeated-id", row[18:], first[18:])

    def _repeated_questions(self) -> Iterator[Repeat]:
        self.asked_again = 0
        before = b""
        for first, row in _again(self._questions, 24):
            before = before if before[:24] == row[:24] else first
            if row[24] != first[24]:
                yield _repeat("leaked-question", row[29:37], first[29:37], _turn(row))
            elif row[:16] != NO_PICTURE:
                if row[25:29] == before[25:29]:
                    yield _repeat("repeated-question", row[29:37], before[29:37], _turn(row))
                    continue
                self.asked_again += 1
            before = row

    def _leaked_pictures(self) -> Iterator[Repeat]:
        for _, rows in groupby(self._pictures, lambda row: row[:16]):
            earlier: dict[bytes, bytes] = {}
            for _, of_split in groupby(rows, lambda row: row[16:17]):
                mine: dict[bytes, bytes] = {}
                for row in of_split:
                    mine.setdefault(row[17:19], row[19:])
                for task, place in mine.items() if earlier else ():
                    kind = "leaked-picture" if task in earlier else "shared-picture"
                    yield _repeat(kind, place, earlier.get(task) or min(earlier.values()))
                earlier = mine | earlier

    def _without_records(self, questions: Iterable[Repeat]) -> Iterator[Repeat]:
        """The questions but those of repeated records."""
        repeated = self.records()
        skipped = next(repeated, None)
        for each in questions:
            while skipped is not None and skipped.place < each.place:
                skipped = next(repeated, None)
            if each.kind != "repeated-question" or skipped is None or skipped.place != each.place:
                yield each


_KINDS = (
    "leaked-question",
    "repeated-question",
    "repeated-record",
    "repeated-id",
    "leaked-picture",
    "shared-picture",
)


def _again(rows: Iterable[bytes], length: int) -> Iterator[tuple[bytes, bytes]]:
    """Each row whose first bytes were those of the row before, with the first row of that beginning."""
    first = b""
    for row in rows:
        if row[:length] == first[:length]:
            yield first, row
        else:
            first = row


def _turn(row: bytes) -> int:
    return int.from_bytes(row[37:], "big")


def _repeat(kind: str, place: bytes, first: bytes, turn: int = 0, equal: bool = False) -> Repeat:
    return Repeat(kind, Place.from_bytes(place), turn, Place.from_bytes(first), equal)


def _in_order(found: Iterable[Repeat]) -> Iterator[Repeat]:
    rows = Rows()
    rows.extend(
        each.place.to_bytes()
        + each.turn.to_bytes(4, "big")
        + bytes([_KINDS.index(each.kind), each.equal])
        + each.first.to_bytes()
        for each in found
    )
    for row in rows:
        turn = int.from_bytes(row[8:12], "big")
        yield _repeat(_KINDS[row[12]], row[:8], row[14:], turn, bool(row[13]))


def _hash(text: str, size: int) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()
