"""Task names and ids, and how a record tells its task."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from unicodedata import normalize

# Rows of a score table that are no task's.
RESERVED = ("mini", "single_mini", "single_full", "transform", "equal")


def task_names(names: Iterable[str], parameter: str = "tasks") -> tuple[str, ...]:
    """Return the names as a tuple, checked to be non-empty, distinct strings.

    Args:
        names: task names in the order of their ids.
        parameter: what the caller calls them, for the error message.

    Raises:
        TypeError: `names` is one string or a set, or a name is not a string.
        ValueError: no name, an empty name or a name that comes twice.
    """
    if isinstance(names, str):
        raise TypeError(f"{parameter}: expected a sequence of task names, got the single string {names!r}")
    if isinstance(names, set | frozenset):
        # Each process has another order for its strings: weights in a list would be those of any task.
        raise TypeError(
            f"{parameter}: expected task names in the order of their ids, got a set, which has none; pass "
            "sorted(...) of it"
        )
    checked = tuple(names)
    if not checked:
        raise ValueError(f"{parameter}: expected at least one task name, got none")
    for name in checked:
        if not isinstance(name, str):
            raise TypeError(f"{parameter}: expected task names as strings, got {name!r}")
        if not name.strip():
            raise ValueError(f"{parameter}: expected non-empty task names, got {name!r}")
    # A column of a data set has as many names as records.
    if len(set(checked)) < len(checked):
        repeated = sorted(name for name, count in Counter(checked).items() if count > 1)
        raise ValueError(f"{parameter}: each task may stand once, repeated: {', '.join(repeated)}")
    return checked


def check_estimated(name: str) -> None:
    """Raise ValueError unless an estimate can have a task of this name."""
    if name in RESERVED or "/" in name or not name.strip():
        raise ValueError(
            f"expected a task name without '/' that is none of {', '.join(RESERVED)}, got {name!r}"
        )


def unknown_task(name: object, known: Iterable[str]) -> str:
    """Return the part of an error message that tells which tasks there are and which one was meant."""
    names = [str(task) for task in known]
    by_folded = {task.casefold(): task for task in names}
    close = get_close_matches(str(name).casefold(), by_folded, n=1)
    hint = f" (did you mean {by_folded[close[0]]!r}?)" if close else ""
    if same := [task for task in names if normalize("NFC", task) == normalize("NFC", str(name))]:
        hint = f" (looks like {same[0]!r}, but in another Unicode form: write both alike, as by copying one)"
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


# Where records of several sources say what they are, after `task` and in this order.
DECLARED = ("channel", "source")


def find_task(
    record: Mapping[str, Any],
    *,
    fields: Iterable[str] = (),
    file: str | Path | None = None,
    file_tasks: Mapping[str, str] | None = None,
) -> tuple[str, Any]:
    """Return where the task of a record stands and what stands there, not checked.

    Args:
        record: one LLaVA record.
        fields: the declared keys that hold the task where `task` is absent, in their order.
        file: the file that the record came from.
        file_tasks: task name by file, the key being the path as given in `file` or the file's bare name.

    Example:
        >>> find_task({"id": 1}, fields=DECLARED, file="data/gqa.json", file_tasks={"gqa.json": "GQA"})
        ("file_tasks['gqa.json']", 'GQA')
        >>> find_task({"id": 1})
        ('task', None)
    """
    for key in ("task", *fields):
        if record.get(key) is not None:
            return key, record[key]
    if file is not None and file_tasks:
        for key in (str(file), Path(file).name):
            if key in file_tasks:
                return f"file_tasks[{key!r}]", file_tasks[key]
    return "task", None


def record_task(
    record: Mapping[str, Any],
    *,
    field: str | Iterable[str] | None = None,
    file: str | Path | None = None,
    file_tasks: Mapping[str, str] | None = None,
) -> str:
    """Return the task name of a record: its `task`, else its declared field, else the task of its file.

    Args:
        record: one LLaVA record.
        field: the key that holds the task where `task` is absent, for example "channel", or several.
        file: the file that the record came from.
        file_tasks: task name by file, the key being the path as given in `file` or the file's bare name.

    Raises:
        TypeError: the value found is not a string.
        ValueError: none of the three tells a task, or what it tells is empty.

    Example:
        >>> record_task({"id": 1, "channel": "GQA"}, field="channel")
        'GQA'
    """
    fields = declared_fields(field)
    place, name = find_task(record, fields=fields, file=file, file_tasks=file_tasks)
    if name is not None:
        return task_names([name], f"{_called(record)}, field {place!r}")[0]
    raise ValueError(
        f"{_called(record)}: expected its task in {' or '.join(map(repr, ('task', *fields)))}, or that of "
        f"its file{'' if file is None else f' {file}'}, got neither; add the field, or tell the file's task: "
        "--tasks FILE=TASK, in Python {file: task}"
    )


def _called(record: Mapping[str, Any]) -> str:
    return "a record without an id" if record.get("id") is None else f"record {record['id']!r}"


def declared_fields(field: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the declared keys as a tuple: none, one, or several."""
    return () if field is None else (field,) if isinstance(field, str) else tuple(field)


def read_file_tasks(words: Iterable[str], parameter: str = "tasks") -> dict[str, str]:
    """Return the task of each file, from words FILE=TASK.

    Args:
        words: what a user wrote.
        parameter: what the caller calls them, for the error message.

    Raises:
        ValueError: a word of another form, or a file that comes twice.

    Example:
        >>> read_file_tasks(["vqa.json=VQAv2", "data/cap.json=caption"])
        {'vqa.json': 'VQAv2', 'data/cap.json': 'caption'}
    """
    found: dict[str, str] = {}
    for word in words:
        file, _, task = word.rpartition("=")
        if not file or not task.strip():
            raise ValueError(f"{parameter}: expected FILE=TASK, as in vqa.json=VQAv2, got {word!r}")
        if found.setdefault(file, task) != task:
            raise ValueError(f"{parameter}: expected one task for {file}, got {found[file]!r} and {task!r}")
    return found
