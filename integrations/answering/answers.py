"""The file of answers while several processes write it: a part for each, so that a kill loses one batch.

OUT.parts/settings.json      what the answers come from; a process with other settings is refused
OUT.parts/I-of-N.jsonl       `{"batch": number, "answers": [text, ...]}`, appended when a batch is done
OUT                          `{"question_id", "text"}` in the questions' order, once all batches are there
OUT.settings.json            what they came from
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cotbal.files import write_text_atomically
from cotbal.integrations.answering.questions import Batch, Question

SETTINGS = ".settings.json"


class Answers:
    """The answers to a file of questions.

    Args:
        out: where they go.
        settings: what they depend on, for JSON.
        questions: what is asked.
        batches: their places, batch after batch.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], questions: Sequence[Question], batches: Sequence[Batch]
    ) -> None:
        self._out, self._settings = out, dict(settings)
        self._questions, self._batches = questions, batches
        self._parts = out.with_name(f"{out.name}.parts")
        self._done = out.with_name(f"{out.name}{SETTINGS}")

    def begin(self) -> bool:
        """Whether there is anything left to do.

        Raises:
            ValueError: there are answers of other settings.
        """
        if self._out.exists():
            self._check(self._done, str(self._out))
            return False
        settings = self._parts / "settings.json"
        try:
            self._check(settings, str(self._parts))
        except ValueError:
            # Nothing came of them: the first, a wrong word, or a batch that the GPU could not hold.
            if any(path.stat().st_size or _is_written(path) for path in self._part_files()):
                raise
            write_text_atomically(settings, json.dumps(self._settings, indent=1) + "\n")
        return True

    def missing(self) -> list[int]:
        """The numbers of the batches that no part holds."""
        found = self._found()
        return [number for number in range(len(self._batches)) if number not in found]

    @contextlib.contextmanager
    def part(self, shard: int, shards: int) -> Iterator[BinaryIO]:
        """The part of one process, to append to; a line that a kill has cut is dropped.

        Raises:
            ValueError: another process is writing it.
        """
        path = self._parts / f"{shard}-of-{shards}.jsonl"
        with path.open("a+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path}: expected to write it alone, but another process does") from None
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
            yield stream

    def add(self, stream: BinaryIO, number: int, texts: Sequence[str]) -> None:
        """Takes the answers of a batch, in its order."""
        assert len(texts) == len(self._batches[number])
        stream.write(
            json.dumps({"batch": number, "answers": list(texts)}, ensure_ascii=False).encode() + b"\n"
        )
        stream.flush()

    def finish(self) -> bool:
        """Puts the parts together where all are done; whether they are."""
        try:
            found = self._found()
        except FileNotFoundError:
            # Another process, which put them together, has removed them.
            found = {}
        if len(found) < len(self._batches):
            return self._out.exists()
        texts = {
            place: text
            for number, batch in enumerate(self._batches)
            for place, text in zip(batch, found[number], strict=True)
        }
        lines = [
            json.dumps({"question_id": question.id, "text": texts[place]}, ensure_ascii=False)
            for place, question in enumerate(self._questions)
        ]
        write_text_atomically(self._done, json.dumps(self._settings, indent=1) + "\n")
        write_text_atomically(self._out, "\n".join(lines) + "\n")
        shutil.rmtree(self._parts, ignore_errors=True)
        return True

    def _found(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for path in self._part_files():
            # What follows the last line's end was cut by a kill.
            for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
                try:
                    content = json.loads(line)
                except ValueError as error:
                    raise ValueError(
                        f"{path}: line {number}: expected JSON, got {error}; remove it"
                    ) from error
                found[content["batch"]] = content["answers"]
        return found

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("*-of-*.jsonl"))

    def _check(self, path: Path, what: str) -> None:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"--out: expected a new file or answers of this command, got {what} without "
                f"{path.name}, which tells what they come from; move it away, or name another file"
            ) from None
        names = [name for name in {**known, **self._settings} if known.get(name) != self._settings.get(name)]
        if names:
            told = ", ".join(f"{name} {known.get(name)!r}" for name in names)
            asked = ", ".join(f"{name} {self._settings.get(name)!r}" for name in names)
            raise ValueError(
                f"--out: expected answers of the same settings in {what} (with {path.name}), got {told}, not "
                f"{asked}; move them away, or name another file"
            )


def _is_written(path: Path) -> bool:
    """Whether a process that lives has the part open."""
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
