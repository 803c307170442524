"""Questions with their answers on disk, so that those on one picture come together from any file."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """A question and its answer.

    Attributes:
        id: of the question, unique within its task.
        image: the picture's path; what keeps turns together where there is none.
        question: without the `<image>` that stands for the picture.
        answer: what a model should say; a list of texts where it is only for scoring; None where it is not
            public.
        extra: further keys of a held-out question.
    """

    id: str
    image: str
    question: str
    answer: Any
    extra: dict[str, Any] = {}  # noqa: RUF012 - never changed


class RepeatedIdError(ValueError):
    """The id of a question stands twice.

    Args:
        id: the id.
        message: where.
    """

    def __init__(self, id: str, message: str) -> None:
        super().__init__(message)
        self.id = id


# json.dumps would make an encoder for each value.
to_json = json.JSONEncoder(ensure_ascii=False).encode


class _Temporary(sqlite3.Connection):
    """Closed with what holds it: from Python 3.13 on a connection is not closed in silence."""

    def __del__(self) -> None:
        self.close()


def temporary_database(cache: int = 16384) -> sqlite3.Connection:
    """A database in a temporary file; without a name, it is gone with the process, also a killed one.

    Args:
        cache: KiB of memory that it takes.
    """
    # A circle with its statements leaves it to the garbage collector, which runs in any thread.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False, factory=_Temporary)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{cache}"):
        database.execute(f"PRAGMA {setting}")
    database.execute("BEGIN")
    return database


def seeded(seed: int, task: str) -> Callable[[str], bytes]:
    """A function that gives each name 8 bytes, which any machine draws and shuffles by."""
    start = hashlib.sha256(f"{seed}\n{task}\n".encode())

    def number(name: str) -> bytes:
        digest = start.copy()
        digest.update(name.encode())
        return digest.digest()[:8]

    return number


class Turns:
    """The turns of a task, by split.

    Args:
        seed, task: what decides the order of the turns, and which are drawn.
    """

    def __init__(self, seed: int, task: str) -> None:
        self._database = temporary_database()
        self._database.execute(
            "CREATE TABLE turn (split TEXT, image TEXT, drawn BLOB, number BLOB, id TEXT, content TEXT)"
        )
        self._number = seeded(seed, task)
        self._drawn = seeded(seed, f"{task}\nimages")

    def add(self, split: str, turn: Turn) -> None:
        """Takes a turn."""
        content = to_json([turn.question, turn.answer, turn.extra])
        row = (split, turn.image, self._drawn(turn.image), self._number(turn.id), turn.id, content)
        self._database.execute("INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?)", row)

    def conversations(self, split: str, at_most: int | None = None) -> Iterator[list[Turn]]:
        """The turns of each picture, shuffled; picture after picture by name.

        Args:
            split: whose.
            at_most: draw so many pictures.

        Raises:
            RepeatedIdError: a question's id stands twice on a picture.
        """
        query = f"{_SELECT} ORDER BY image, number, id"
        for _, group in groupby(
            self._rows(query, split, self._limit(split, at_most)), lambda turn: turn.image
        ):
            turns = list(group)
            for before, after in pairwise(turns):
                if before.id == after.id:
                    where = f"question {after.id!r} on {after.image!r} stands twice in the annotations"
                    raise RepeatedIdError(after.id, where)
            yield turns

    def drawn(self, split: str, at_most: int | None = None) -> Iterator[Turn]:
        """So many turns, drawn at random; a smaller draw is the beginning of a larger one."""
        limit = -1 if at_most is None else at_most
        return self._rows(f"{_SELECT} ORDER BY number, id LIMIT {limit}", split, b"\xff" * 9)

    def pictures(self, split: str, at_most: int) -> list[str]:
        """So many pictures, drawn at random."""
        query = "SELECT DISTINCT image, drawn FROM turn WHERE split = ? ORDER BY drawn, image LIMIT ?"
        return [image for image, _ in self._database.execute(query, (split, at_most))]

    def _limit(self, split: str, at_most: int | None) -> bytes:
        """The last drawn picture's number."""
        if at_most is not None:
            query = "SELECT DISTINCT drawn FROM turn WHERE split = ? ORDER BY drawn LIMIT 1 OFFSET ?"
            found = self._database.execute(query, (split, at_most - 1)).fetchone()
            if found is not None:
                return bytes(found[0])
        return b"\xff" * 9

    def _rows(self, query: str, split: str, limit: bytes) -> Iterator[Turn]:
        for id, image, content in self._database.execute(query, (split, limit)):
            question, answer, extra = json.loads(content)
            yield Turn(id, image, question, answer, extra)


_SELECT = "SELECT id, image, content FROM turn WHERE split = ? AND drawn <= ?"


class Lookup:
    """Values by key, on disk: one file's answers for another file's questions."""

    def __init__(self) -> None:
        self._database = temporary_database()
        self._database.execute("CREATE TABLE value (key INTEGER PRIMARY KEY, content TEXT)")

    def put(self, key: int, value: Any) -> bool:
        """Takes a value; False where the key has one already."""
        try:
            content = to_json(value)
            self._database.execute("INSERT INTO value VALUES (?, ?)", (key, content))
        except sqlite3.IntegrityError:
            return False
        return True

    def take(self, key: int) -> Any:
        """The value, which is then gone; None where there is none."""
        found = self._database.execute("SELECT content FROM value WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        self._database.execute("DELETE FROM value WHERE key = ?", (key,))
        return json.loads(found[0])

    def left(self) -> int | None:
        """A key that has not been taken."""
        found = self._database.execute("SELECT min(key) FROM value").fetchone()
        return None if found is None else found[0]
