"""What an earlier start has finished under settings that the file no longer has."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from cotbal.project.outline import run_keys
from cotbal.runs.plan import Plan
from cotbal.runs.store import RESULT_FILE, RunSpec

NAMES_SHOWN = 4


def done_again(plan: Plan, finished: Container[str], out: Path) -> dict[str, list[str]]:
    """The runs that are finished under other settings alone, with what differs; nothing: the training.

    The latest result of the same name is compared.

    Args:
        plan: the runs.
        finished: the names of those that are finished under the plan's own settings.
        out: the output folder.
    """
    missing = {name for name in plan if name not in finished}
    earlier = _latest(out / "runs") if missing else {}
    # A result under the run's own key is no earlier one: it is damaged, or its training is done again.
    found = {name for name, key in run_keys(plan).items() if earlier.get(name, {"key": key})["key"] != key}
    return {
        name: _differences(earlier[name]["settings"], spec.settings)
        for name in plan
        if name in missing & found and isinstance(spec := plan[name], RunSpec)
    }


def in_words(again: Mapping[str, list[str]]) -> str:
    """One line for a person."""
    names = list(again)
    shown = ", ".join(names[:NAMES_SHOWN]) + (
        f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else ""
    )
    reasons = list(dict.fromkeys(reason for found in again.values() for reason in found))
    changed = "; ".join(reasons[:NAMES_SHOWN]) or "nothing that is recorded"
    return (
        f"finished under other settings and done again: {shown}. Changed: {changed}. The earlier results are "
        "kept and count again once the file says what it said"
    )


def _latest(runs: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in runs.glob(f"*/{RESULT_FILE}"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name, finished = content["name"], content["finished"]
            if name not in found or finished > found[name]["finished"]:
                settings = content["settings"]
                found[name] = {"finished": finished, "settings": settings, "key": path.parent.name}
        except (OSError, ValueError, KeyError, TypeError):
            # Half a result, or one of an older cotbal, which wrote no name.
            continue
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for key in now:
        if before.get(key) == now[key]:
            continue
        if key == "command":
            found.append(_words(before.get(key, ""), now[key]))
        elif key == "data" and isinstance(now[key], list) and isinstance(before.get(key), list):
            tasks = _tasks(before[key], now[key])
            found.append(f"data of {', '.join(tasks)}" if tasks else "the order of the tasks")
        else:
            found.append(key)
    return found


def _words(before: str, now: str) -> str:
    """The first place at which two commands differ."""
    old, new = before.split(), now.split()
    places = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    _, i, j, k, m = next(place for place in (*places, ("", 0, 0, 0, 0)) if place[0] != "equal")
    gone, come = " ".join(old[i:j]), " ".join(new[k:m])
    if gone and come:
        return f"command, {gone!r} is {come!r} now"
    return f"command, {come!r} is new" if come else f"command, {gone!r} is gone"


def _tasks(before: list[Any], now: list[Any]) -> list[str]:
    old, new = ({part["task"]: part for part in parts} for parts in (before, now))
    changed = [task for task in new if task in old and old[task] != new[task]]
    return [
        *changed,
        *(f"{task} (new)" for task in new if task not in old),
        *(f"{task} (gone)" for task in old if task not in new),
    ]
