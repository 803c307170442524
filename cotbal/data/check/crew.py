"""Who examines: this process, or several at once; the results come in the same order."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from cotbal.data.check.pictures import Look, look
from cotbal.data.check.schema import Examined, Examiner, Settings
from cotbal.data.processes import processes
from cotbal.data.tokens import load_counter
from cotbal.json_window import Record


class Batch(Protocol):
    """Records of one file."""

    @property
    def file(self) -> Path:
        """The file."""

    @property
    def records(self) -> list[Record]:
        """Those records."""


T = TypeVar("T", bound=Batch)
# Twice the depth that Python itself allows.
_DEEP = 2000


class Crew:
    """Examines records and pictures in this process."""

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def examined(self, batches: Iterable[T]) -> Iterator[tuple[T, list[Examined]]]:
        """Each batch with what its records are.

        Args:
            batches: are taken one after another, a few ahead where several processes work.
        """
        for batch in batches:
            yield batch, [self._examiner(record.content, batch.file) for record in batch.records]

    def looks(self, paths: Sequence[Path]) -> Iterable[Look]:
        """What each picture is."""
        return map(look, paths)


class _Processes(Crew):
    """The same in several processes."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self._pool, self._workers = pool, workers

    def examined(self, batches: Iterable[T]) -> Iterator[tuple[T, list[Examined]]]:
        waiting: deque[tuple[T, Future[list[Examined]]]] = deque()
        for batch in batches:
            # As text: objects would be slower to hand over than to read again.
            texts = [record.text for record in batch.records]
            waiting.append((batch, self._pool.submit(_examine, batch.file, texts)))
            if len(waiting) > 2 * self._workers:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()

    def looks(self, paths: Sequence[Path]) -> Iterable[Look]:
        return self._pool.map(look, paths, chunksize=4)


@contextmanager
def crew(settings: Settings, workers: int) -> Iterator[Crew]:
    """A crew of so many processes.

    Raises:
        ValueError: no such tokenizer, or a process was killed.
    """
    # Also where others count: a wrong name is told before any process starts.
    examiner = _examiner(settings)
    if workers == 1:
        yield Crew(examiner)
        return
    with processes(workers, _start, settings) as pool:
        yield _Processes(pool, workers)


_own: Examiner


def _start(settings: Settings) -> None:
    global _own
    # What could be read before it was handed over must not be nested too deeply here.
    sys.setrecursionlimit(max(_DEEP, sys.getrecursionlimit()))
    _own = _examiner(settings)


def _examiner(settings: Settings) -> Examiner:
    return Examiner(settings, None if settings.tokenizer is None else load_counter(settings.tokenizer))


def _examine(file: Path, texts: list[str]) -> list[Examined]:
    return [_own(json.loads(text), file) for text in texts]
