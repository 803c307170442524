"""The world's records as LLaVA has them, in one file."""

import json
from pathlib import Path
from typing import Any

from tests.integrations.llamafactory.world import TASKS


def llava_records(world: Path, kind: str = "_img", between: str = "") -> list[dict[str, Any]]:
    """Those of the tasks in turn.

    Args:
        world: the folder of `make_world`.
        kind: `_img` or nothing, the tasks with pictures or those without.
        between: a picture and its question.
    """
    of_tasks = []
    for task in TASKS:
        records = json.loads((world / f"{task}{kind}.json").read_text())
        own = [each for each in records if len(each["messages"]) == 2]
        of_tasks.append([_record(each, task + kind, between) for each in own])
    return [each for in_turn in zip(*of_tasks, strict=False) for each in in_turn]


def _record(record: dict[str, Any], task: str, between: str) -> dict[str, Any]:
    question, answer = (turn["content"] for turn in record["messages"])
    question = question.replace("<image>", f"<image>{between}")
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    image = {"image": record["images"][0]} if record["images"] else {}
    return {"id": 1 if image else "one", **image, "conversations": turns, "task": task}


def write(path: Path, records: list[Any]) -> None:
    """As a JSON array, or JSONL where the name ends so."""
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(records, indent=1))
