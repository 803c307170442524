"""Per-item scores as a JSON file: `{"schema_version": 1, "items": {run: {task: [score, ...]}}}`.

A run is "mini" or the task of a probe; the items stand in the same order in every run. An optional key
"clusters", `{task: [number, ...]}`, says which items belong together, such as the questions on one image;
"strata", likewise, of which validation set each item is, where a task's score is the plain mean over several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cotbal.files import distinct_keys, is_finite, write_text_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from cotbal.estimate.clusters import Clusters
    from cotbal.estimate.strata import Strata

SCHEMA_VERSION = 1
# A score that is not the mean of its items is another quantity, and its interval would be of that.
ITEM_TOLERANCE = 1e-6
_FORM = (
    f'{{"schema_version": {SCHEMA_VERSION}, "items": {{"mini": {{"vqa": [1, 0, ...], ...}}, "vqa": ...}}}}, '
    "the scores of each row's items by task"
)


class ItemFile(NamedTuple):
    """What an item file holds.

    Attributes:
        items: {run: {task: scores}}.
        clusters: {task: a number per item}; empty where every item stands by itself.
        strata: {task: a number per item}; a task that is not there has one validation set.
    """

    items: dict[str, dict[str, list[float]]]
    clusters: dict[str, list[int]]
    strata: dict[str, list[int]]


def read_items(path: str | Path) -> ItemFile:
    """Return the per-item scores of a file; `Scores` checks them against its tasks and runs.

    Names are without the spaces around them, as those in the cells of a score table.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON of this schema, or holds something other than lists of numbers.
    """
    try:
        content = _read(Path(path))
        if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
            came = f"the keys {', '.join(content)}" if isinstance(content, dict) else repr(content)
            raise ValueError(f"expected {_FORM}, got {came[:80]}")
        runs = _object(content, "items").items()
        items = {run.strip(): _lists(of_run, f"items[{run!r}]") for run, of_run in runs}
        clusters, strata = (_lists(content.get(key) or {}, key, (int,)) for key in ("clusters", "strata"))
        return ItemFile(items, clusters, strata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_items(
    path: str | Path,
    items: Mapping[str, Mapping[str, Tensor | Sequence[float]]],
    clusters: Clusters | None = None,
    strata: Strata | None = None,
) -> Path:
    """Return `path` after writing the items there; `read_items` reads the same numbers back."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "items": {run: {task: _plain(row) for task, row in of_run.items()} for run, of_run in items.items()},
    }
    for key, given in (("clusters", clusters), ("strata", strata)):
        if given:
            content[key] = {task: _plain(numbers) for task, numbers in given.items()}
    return write_text_atomically(path, json.dumps(content, allow_nan=False) + "\n")


def _read(path: Path) -> Any:
    try:
        # Editors on Windows put a mark in front.
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=distinct_keys)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected {_FORM}, got no JSON: {error}") from error


def _plain(row: Tensor | Sequence[float]) -> list[float]:
    """Whole numbers stay whole."""
    numbers: list[float] = list(row) if isinstance(row, Sequence) else row.tolist()
    return numbers


def _object(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(content.get(key), dict):
        raise ValueError(f"{key}: expected an object, got {type(content.get(key)).__name__}")
    return content[key]


def _lists(value: Any, where: str, kinds: tuple[type, ...] = (int, float)) -> dict[str, list[Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object of lists, got {type(value).__name__}")
    named = "numbers" if float in kinds else "whole numbers"
    for task, row in value.items():
        if not isinstance(row, list):
            raise ValueError(f"{where}[{task!r}]: expected a list of {named}")
        # JSON knows no nan, and Python reads it.
        if wrong := [each for each in row if type(each) not in kinds or not is_finite(each)]:
            raise ValueError(f"{where}[{task!r}]: expected a list of {named}, got {wrong[0]!r}")
    return {task.strip(): row for task, row in value.items()}
