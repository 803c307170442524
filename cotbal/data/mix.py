"""The mixture of prepared tasks, their mini subsets, the probes' mixtures, and the held-out questions.

OUT/mixture.json            every task's training records, task after task
OUT/mini/TASK.json          the mini subset of each weighted task
OUT/mini.json               all of them: what the mini run trains on
OUT/probes/TASK.json        the full set of a task with the others' mini subsets
OUT/validation/TASK.jsonl   held-out questions; OUT/test/TASK.jsonl or TASK_NAME.jsonl
OUT/mix.json                sizes and hashes; written last
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from cotbal.data.inputs import Inputs
from cotbal.data.own_folder import begin, check_own, finish
from cotbal.data.table1 import FIXED, TABLE
from cotbal.data.task_folder import PREPARED, SCHEMA_VERSION
from cotbal.files import check_outputs, json_object, remove_leftovers, slug, write_json, writing_atomically
from cotbal.json_records import RecordFile, read_records, record_file, with_task
from cotbal.project.subsets import largest_chosen, sample_numbers, subset_size

MIX, MIXTURE = "mix.json", "mixture"
LEFT_OUT = "RefCOCO+"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Prepared:
    """A task that has been prepared.

    Attributes:
        folder: its own.
        task: its name.
        splits: what was written, by split: file, sizes, sha256.
    """

    folder: Path
    task: str
    splits: dict[str, dict[str, Any]]

    @property
    def records(self) -> int:
        """How many records there are to train on."""
        return int(self.splits["train"]["records"])


def find_prepared(data: Path, tasks: Sequence[str] = ()) -> list[Prepared]:
    """The prepared tasks in a folder, the paper's in its order and then the others by name.

    Args:
        data: what preparations wrote to.
        tasks: these alone; by default all but RefCOCO+, which the paper's mixture does not have.

    Raises:
        OSError: the folder cannot be read.
        ValueError: there is none, one that is asked for is missing or in two folders, or one is unfinished.
    """
    found: dict[str, Prepared] = {}
    for each in map(load_prepared, _task_folders(data, tasks)):
        if (other := found.setdefault(each.task, each)) is not each:
            raise ValueError(
                f"{data}: expected one folder for task {each.task!r}, got {other.folder.name} and "
                f"{each.folder.name}; move one of them out of {data}"
            )
    if absent := [task for task in tasks if task not in found]:
        raise ValueError(f"--task: expected one of {', '.join(found) or 'none'} in {data}, got {absent[0]!r}")
    names = tasks or [task for task in found if not task.startswith(LEFT_OUT)]
    if not names:
        raise ValueError(
            f"{data}: expected prepared tasks, got none; `cotbal prepare SOURCE --out {data}` makes them"
        )
    order = list(TABLE)
    return [
        found[t] for t in sorted(set(names), key=lambda t: (order.index(t) if t in TABLE else len(order), t))
    ]


def _task_folders(data: Path, tasks: Sequence[str]) -> list[Path]:
    """The folders that tasks should be in: not hidden, no mixture; finished where not asked for."""
    folders = [path for path in sorted(data.iterdir()) if path.is_dir() and path.name[0] != "."]
    folders = [path for path in folders if not (path / MIX).is_file()]
    asked = set(map(slug, tasks))
    return [path for path in folders if not asked or path.name in asked or (path / PREPARED).is_file()]


def write_mix(
    found: Sequence[Prepared],
    out: Path,
    inputs: Inputs,
    *,
    ratio: Fraction = Fraction(1, 32),
    seed: int = 0,
    form: str = "json",
    fixed: Sequence[str] | None = None,
    probes: bool = True,
) -> dict[str, Any]:
    """Writes the mixture and what belongs to it; the content of mix.json.

    Each task is read once and nothing of it is kept in memory. The mini subsets are those of `cotbal plan`.

    Args:
        found: the tasks.
        out: where to.
        inputs: what is read.
        ratio: share of a task's records in its mini subset.
        seed: decides which.
        form: of the files, "json" or "jsonl".
        fixed: tasks of a fixed weight, which are in the mixture alone; None: ShareGPT, where it is there.
        probes: write the probes' mixtures.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a prepared file was changed, `fixed` names no task of them, two tasks need the same file,
            `out` is a folder of prepared data, or has files of another origin.
            An older mixture is then as it was, but where a file of held-out questions has changed.
    """
    names = [each.task for each in found]
    if absent := [task for task in fixed or () if task not in names]:
        raise ValueError(f"--fixed: expected one of {', '.join(names)}, got {absent[0]!r}")
    if out.resolve() in {path.resolve() for each in found for path in (each.folder, each.folder.parent)}:
        # Its folders would count as unfinished tasks the next time, and a task's folder as a mixture.
        raise ValueError(
            f"--out: expected a folder of its own, got that of prepared data, {out}; take another"
        )
    weighted = [task for task in names if task not in (FIXED if fixed is None else fixed)]
    _check_names(names)
    written = [MIX, *(f"{name}.{form}" for name in _names(weighted, probes))]
    written += [
        _held_out_file(each.task, split) for each in found for split in each.splits if split != "train"
    ]
    read = [each.folder / what["file"] for each in found for what in each.splits.values()]
    check_outputs([("--out", out / name) for name in written], read)
    check_own("--out", out, MIX, written)
    before = _all_files(load_mix(out)) if (out / MIX).is_file() else set()
    for folder in (".", "mini", "probes", "validation", "test"):
        remove_leftovers(out / folder)
    files: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        # Not in place until all is written and every hash agrees.
        staged = {
            name: stack.enter_context(record_file(out / f"{name}.{form}", form))
            for name in _names(weighted, probes)
        }
        for each in found:
            _spread(each, staged, weighted, inputs, ratio, seed)
        for name, file in staged.items():
            files[f"{name}.{form}"] = {"records": file.records, "sha256": file.close()}
        begin(out, MIX)
    tasks = {
        each.task: {
            **_sizes(each, ratio if each.task in weighted else None),
            "held_out": _held_out(each, out, inputs),
        }
        for each in found
    }
    content = {"schema_version": SCHEMA_VERSION, "seed": seed, "mini_ratio": str(ratio)}
    content |= {"tasks": tasks, "files": files}
    for name in before - _all_files(content):
        (out / name).unlink(missing_ok=True)
    write_json(out / MIX, content)
    finish(out)
    return content


def load_mix(folder: Path) -> dict[str, Any]:
    """The content of a mixture's mix.json; ValueError where it is something else."""
    path = folder / MIX
    content = json_object(path, "what `cotbal prepare mix` wrote", "run it again, in a new folder")
    if content.get("schema_version") != SCHEMA_VERSION or not {"tasks", "files"} <= content.keys():
        raise ValueError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, tasks and files; run `cotbal prepare mix` "
            "again"
        )
    return content


def held_out_files(content: dict[str, Any]) -> dict[str, str]:
    """The files of held-out questions of a mixture and the kind of each, "validation" or "test"."""
    return {
        _held_out_file(task, split): "validation" if split == "val" else "test"
        for task, sizes in content["tasks"].items()
        for split in sizes["held_out"]
    }


def _held_out_file(task: str, split: str) -> str:
    kind, _, name = split.partition("_")
    folder = "validation" if kind == "val" else "test"
    return f"{folder}/{slug(task)}_{name}.jsonl" if name else f"{folder}/{slug(task)}.jsonl"


def _all_files(content: dict[str, Any]) -> set[str]:
    return {*content["files"], *held_out_files(content)}


def _check_names(tasks: Sequence[str]) -> None:
    by_file: dict[str, str] = {}
    for task in tasks:
        # Some file systems know no upper case.
        if (other := by_file.setdefault(slug(task).casefold(), task)) != task:
            raise ValueError(
                f"tasks {other!r} and {task!r}: expected names that differ as files, got {slug(task)!r} for "
                "both; prepare one of them under another name"
            )


def _sizes(each: Prepared, ratio: Fraction | None) -> dict[str, int | None]:
    """The sizes of a task; `ratio` is None where it has no mini subset."""
    return {
        "records": each.records,
        "turns": each.splits["train"]["turns"],
        "paper_thousands": TABLE[each.task].thousands if each.task in TABLE else None,
        "mini": None if ratio is None else subset_size(each.records, ratio),
    }


def load_prepared(folder: Path) -> Prepared:
    """What was prepared in a task's folder; ValueError where it is unfinished or something else."""
    path = folder / PREPARED
    if not path.is_file():
        raise ValueError(
            f"{folder}: expected {PREPARED}, got none: prepare it again, it is not finished, or move it away"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        prepared = Prepared(folder, content["task"], content["splits"])
        wrong = content["schema_version"] != SCHEMA_VERSION or prepared.records < 1
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected what `cotbal prepare` wrote, got {error!r}") from error
    if wrong:
        raise ValueError(f"{path}: expected schema_version {SCHEMA_VERSION} and records; prepare it again")
    return prepared


def _names(weighted: Sequence[str], probes: bool) -> list[str]:
    names = [MIXTURE, *(["mini"] if weighted else []), *(f"mini/{slug(task)}" for task in weighted)]
    return names + [f"probes/{slug(task)}" for task in weighted if probes]


def _spread(
    each: Prepared,
    staged: dict[str, RecordFile],
    weighted: Sequence[str],
    inputs: Inputs,
    ratio: Fraction,
    seed: int,
) -> None:
    """Gives each record of a task to the files that it belongs to."""
    always = [staged[MIXTURE]]
    mini: list[RecordFile] = []
    chosen: Callable[[int], bool] = lambda place: False  # noqa: E731
    if each.task in weighted:
        always += [file for name, file in staged.items() if name == f"probes/{slug(each.task)}"]
        others = [f"probes/{slug(task)}" for task in weighted if task != each.task]
        mini = [staged[name] for name in ("mini", f"mini/{slug(each.task)}", *others) if name in staged]
        number = sample_numbers(seed, each.task)
        limit = largest_chosen(seed, each.task, each.records, subset_size(each.records, ratio))
        chosen = lambda place: number(place) <= limit  # noqa: E731
    for place, text in enumerate(_texts(each, inputs)):
        for file in (*always, *mini) if chosen(place) else always:
            file.add(text)


def _texts(each: Prepared, inputs: Inputs) -> Iterator[str]:
    """The training records of a task, each on one line, if they are those that were prepared."""
    split = each.splits["train"]
    path = each.folder / split["file"]
    reading = inputs.reading(path)
    for record in read_records(path, reading):
        yield with_task(record, each.task)
    _check(path, reading.sha256.hexdigest(), split)


def _held_out(each: Prepared, out: Path, inputs: Inputs) -> dict[str, int]:
    """Copies the held-out questions of a task; how many, by split."""
    sizes = {}
    for split, what in each.splits.items():
        if split == "train":
            continue
        source = each.folder / what["file"]
        reading = inputs.reading(source)
        path = out / _held_out_file(each.task, split)
        with writing_atomically(path) as stream, source.open("rb") as questions:
            while block := questions.read(BLOCK):
                reading.update(block)
                stream.write(block)
            _check(source, reading.sha256.hexdigest(), what)
        sizes[split] = int(what["questions"])
    return sizes


def _check(path: Path, sha256: str, split: dict[str, Any]) -> None:
    if sha256 != split["sha256"]:
        raise ValueError(f"{path}: expected the file that was prepared, but it has changed; prepare it again")
