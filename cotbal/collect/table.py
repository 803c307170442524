"""From every run's result files to one score table with its items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotbal.collect.align import ValidationSet, align
from cotbal.collect.formats import reader
from cotbal.collect.found import Found
from cotbal.collect.source import Source
from cotbal.estimate.score_csv import MINI, SINGLE_FULL, SINGLE_MINI, two_scales
from cotbal.tasks import task_names, unknown_task

if TYPE_CHECKING:
    from cotbal.estimate.scores import Scores

_SINGLE = (SINGLE_MINI, SINGLE_FULL)


@dataclass(frozen=True)
class Collected:
    """A score table and where it came from.

    Attributes:
        scores: the table; with the items of those tasks that have them in every run, those on one image in
            one cluster, those of one validation set in one stratum.
        provenance: runs, files with their SHA-256, metrics and matching rules, as JSON values.
        doubts: a sentence on each task whose validation sets may be of two scales, which their mean hides.
    """

    scores: Scores
    provenance: dict[str, Any]
    doubts: list[str]


def collect(runs: Mapping[str, str | Path], sources: Sequence[Source]) -> Collected:
    """Return the score table of the runs, read from their folders.

    Args:
        runs: {run: folder}; "mini" and one run per task, named after the task of the probe. For the precise
            difficulty also "single_mini/TASK" and "single_full/TASK" for every task.
        sources: what each task is read from. Several of one task are its validation sets, of which the score
            is the plain mean; of which set each item is stands in the table's strata.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: a run is missing or unknown, two runs were scored from the same files, or the files hold
            something other than they should; the message names file, record and field, or task and run.
    """
    tasks = task_names(dict.fromkeys(source.task for source in sources), "--task")
    folders = {run: Path(folder) for run, folder in runs.items()}
    _check_runs(folders, tasks)
    modules = [reader(source) for source in sources]
    files: dict[str, str] = {}
    read: dict[str, list[Any]] = {run: [] for run in folders}
    sets: dict[str, list[ValidationSet]] = {task: [] for task in tasks}
    told: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for source, module in zip(sources, modules, strict=True):
        found = {run: module.read(folders[run], source, run) for run in _runs_of(source.task, folders)}
        sets[source.task].append(align(source, found))
        told[source.task].append(_told(source, found))
        files |= {
            str(file): _sha256(file)
            for each in found.values()
            for file in each.files
            if str(file) not in files
        }
        for run, each in found.items():
            places = [file.resolve() for file in each.files]
            read[run].append((places, sets[source.task][-1].scores[run]))
    _check_different({run: read[run] for run in (MINI, *tasks)}, folders)
    columns = {task: _column(task, sets[task]) for task in tasks}
    provenance = {
        "schema_version": 1,
        "runs": {run: str(folder) for run, folder in folders.items()},
        "tasks": told,
        "files": files,
    }
    doubts = [doubt for task in tasks for doubt in _doubts(task, told[task], sets[task])]
    return Collected(_scores(tasks, columns, folders), provenance, doubts)


def _check_runs(folders: Mapping[str, Path], tasks: tuple[str, ...]) -> None:
    needed = [MINI, *tasks]
    singles = [f"{kind}/{task}" for kind in _SINGLE for task in tasks]
    for run in folders:
        if run not in (*needed, *singles):
            raise ValueError(f"--run: no such run {unknown_task(run, needed)}")
    if any(run in folders for run in singles):
        needed += singles
    if missing := [run for run in needed if run not in folders]:
        raise ValueError(f"--run: missing {', '.join(missing)}; the table needs each of {', '.join(needed)}")


def _check_different(read: Mapping[str, Sequence[Any]], folders: Mapping[str, Path]) -> None:
    """ValueError for two runs of the same files and scores; a table of all runs has other scores for each."""
    runs = list(read)
    for place, run in enumerate(runs):
        for other in runs[:place]:
            if read[run] == read[other]:
                raise ValueError(
                    "--run: expected files of its own for every run, got the same in "
                    f"{other}={folders[other]} and {run}={folders[run]}; give the folder of each run"
                )


def _runs_of(task: str, folders: Mapping[str, Path]) -> Iterator[str]:
    """The runs that are scored on a task: all but the single-task runs of the others, mini first."""
    yield MINI
    for run in folders:
        # A task may have a slash in its name, as data sets of a hub do.
        kind, _, of_task = run.partition("/")
        if run != MINI and (kind not in _SINGLE or of_task == task):
            yield run


def _column(task: str, sets: Sequence[ValidationSet]) -> ValidationSet:
    """The plain mean of a task's validation sets, with the items of all, one set after another."""
    if len(sets) == 1:
        return sets[0]
    if len({each.transform for each in sets}) > 1:
        raise ValueError(f"task {task!r}: expected one direction for all its validation sets, got several")
    if len({bool(each.items) for each in sets}) > 1:
        raise ValueError(
            f"task {task!r}: one validation set has items, another has none; give items=no for all of them"
        )
    runs = sets[0].scores
    scores = {run: sum(each.scores[run] for each in sets) / len(sets) for run in runs}
    if not sets[0].items:
        return ValidationSet(scores, {}, [], sets[0].transform)
    sizes = [len(each.items[MINI]) for each in sets]
    items = {run: [item for each in sets for item in each.items[run]] for run in runs}
    strata = [place for place, size in enumerate(sizes) for _ in range(size)]
    images: list[str] = []
    for place, (each, size) in enumerate(zip(sets, sizes, strict=True)):
        images += each.images or [f"item {place} {number}" for number in range(size)]
    told = images if any(each.images for each in sets) else []
    return ValidationSet(scores, items, told, sets[0].transform, strata)


def _doubts(task: str, told: Sequence[Mapping[str, Any]], sets: Sequence[ValidationSet]) -> list[str]:
    rows = {
        f"{run} of {source['from']}": [score]
        for source, each in zip(told, sets, strict=True)
        for run, score in each.scores.items()
    }
    # A single set keeps its scores, and what reads the table looks at them.
    return two_scales([task], rows) if len(sets) > 1 else []


def _scores(
    tasks: tuple[str, ...], columns: Mapping[str, ValidationSet], folders: Mapping[str, Path]
) -> Scores:
    def row(run: str) -> list[float]:
        return [columns[task].scores[run] for task in tasks]

    singles = (
        dict.fromkeys(_SINGLE)
        if f"{SINGLE_MINI}/{tasks[0]}" not in folders
        else {kind: [columns[task].scores[f"{kind}/{task}"] for task in tasks] for kind in _SINGLE}
    )
    items = {
        run: {task: column.items[run] for task, column in columns.items() if column.items}
        for run in (MINI, *tasks)
    }
    # Here, for it imports torch: who only reads or checks data need not wait for it.
    from cotbal.estimate.scores import Scores

    return Scores(
        tasks,
        row(MINI),
        [row(task) for task in tasks],
        single_mini=singles[SINGLE_MINI],
        single_full=singles[SINGLE_FULL],
        items=items,
        clusters={
            task: _numbers(column.images)
            for task, column in columns.items()
            if column.items and column.images
        },
        strata={task: column.strata for task, column in columns.items() if column.strata},
        transforms={task: column.transform for task, column in columns.items() if column.transform},
    )


def _numbers(images: Sequence[str]) -> list[int]:
    numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
    return [numbers[image] for image in images]


def _told(source: Source, found: Mapping[str, Found]) -> dict[str, Any]:
    first = found[MINI]
    return {
        "format": source.format,
        "from": source.name,
        "metric": source.metric,
        "better": source.better or "higher",
        "options": dict(source.options),
        "rules": dict(first.rules),
        "items": None if first.items is None else len(first.items),
        "files": {run: [str(file) for file in each.files] for run, each in found.items()},
    }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
