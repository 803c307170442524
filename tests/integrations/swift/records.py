"""The world's data as LLaVA has it: records to train on, and held-out questions that ask the same."""

import json
from pathlib import Path
from typing import Any

from tests.integrations.swift.world import World


def llava_records(world: World, task: str, kind: str) -> list[dict[str, Any]]:
    """The records of a task, pictures relative to the world's image folder; no task in them."""
    found = []
    for index, line in enumerate(world.data(task, kind).read_text().splitlines()):
        record = json.loads(line)
        user, answer = (message["content"].replace("<image>", "<image>\n") for message in record["messages"])
        turns = [{"from": "human", "value": user}, {"from": "gpt", "value": answer}]
        picture = {"image": Path(record["images"][0]).name} if "images" in record else {}
        found.append({"id": index, **picture, "conversations": turns})
    return found


def questions(world: World, task: str, kind: str) -> list[dict[str, Any]]:
    """What those records ask, as `cotbal prepare` writes it, with the answer."""
    found = []
    for record in llava_records(world, task, kind):
        user, answer = (turn["value"] for turn in record["conversations"])
        picture = {"image": record["image"]} if "image" in record else {}
        text = user.removeprefix("<image>\n")
        found.append(
            {"question_id": f"{task} {record['id']}", **picture, "text": text, "answer": answer, "task": task}
        )
    return found


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
