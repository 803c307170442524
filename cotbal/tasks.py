"""Task names and ids, and how a record tells its task."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def task_names(names: Iterable[str], parameter: str = "tasks") -> tuple[str, ...]:
    """Return the names as a tuple, checked to be non-empty, distinct strings.

    Args:
        names: task names in the order of their ids.
        parameter: what the caller calls them, for the error message.

    Raises:
        TypeError: `names` is one string, or a name is not a string.
        ValueError: no name, an empty name or a name that comes twice.
    """
    if isinstance(names, str):
        raise TypeError(f"{parameter}: expected a sequence of task names, got the single string {names!r}")
    checked = tuple(names)
    if not checked:
        raise ValueError(f"{parameter}: expected at least one task name, got none")
    for name in checked:
        if not isinstance(name, str):
            raise TypeError(f"{parameter}: expected task names as strings, got {name!r}")
        if not name.strip():
            raise ValueError(f"{parameter}: expected non-empty task names, got {name!r}")
    if repeated := sorted({name for name in checked if checked.count(name) > 1}):
        raise ValueError(f"{parameter}: each task may stand once, repeated: {', '.join(repeated)}")
    return checked


def unknown_task(name: object, known: Iterable[str]) -> str:
    """Return the part of an error message that tells which tasks there are and which one was meant."""
    names = [str(task) for task in known]
    close = get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{name!r}{hint}; known tasks: {', '.join(names)}"


@dataclass(frozen=True)
class TaskIndex:
    """Task names and their ids 0..N-1, the place of each name.

    Example:
        >>> index = TaskIndex(("VQAv2", "GQA"))
        >>> index.id("GQA"), index.name(0), len(index)
        (1, 'VQAv2', 2)
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", task_names(self.names, "names"))

    def __len__(self) -> int:
        return len(self.names)

    def id(self, name: str) -> int:
        """Return the id of a task name; ValueError names the known tasks."""
        if name not in self.names:
            raise ValueError(f"task: expected a known task, got {unknown_task(name, self.names)}")
        return self.names.index(name)

    def name(self, task_id: int) -> str:
        """Return the name of a task id in 0..N-1; ValueError tells the range."""
        if not 0 <= task_id < len(self.names):
            raise ValueError(f"task_id: expected 0 <= id < {len(self.names)}, got {task_id}")
        return self.names[task_id]


def record_task(
    record: Mapping[str, Any],
    *,
    field: str | None = None,
    file: str | Path | None = None,
    file_tasks: Mapping[str, str] | None = None,
) -> str:
    """Return the task name of a record: its `task`, else its declared field, else the task of its file.

    Args:
        record: one LLaVA record.
        field: the key that holds the task where `task` is absent, for example "channel" or "source".
        file: the file that the record came from.
        file_tasks: task name by file, the key being the path as given in `file` or the file's bare name.

    Raises:
        TypeError: the value found is not a string.
        ValueError: none of the three tells a task, or what it tells is empty.

    Example:
        >>> record_task({"id": 1, "channel": "GQA"}, field="channel")
        'GQA'
    """
    for key in ("task", field):
        if key is not None and record.get(key) is not None:
            return task_names([record[key]], f"record {record.get('id')!r}, field {key!r}")[0]
    if file is not None:
        for key in (str(file), Path(file).name):
            if file_tasks is not None and key in file_tasks:
                return task_names([file_tasks[key]], f"file_tasks[{key!r}]")[0]
    raise ValueError(
        f"record {record.get('id')!r}: expected its task in 'task'"
        + (f" or {field!r}" if field else "")
        + f", or its file in file_tasks, got neither (file: {file}); add the field or map the file to a task"
    )
