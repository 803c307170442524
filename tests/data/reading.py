"""What a preparation wrote."""

import json
from pathlib import Path
from typing import Any

from cotbal.data.inputs import Inputs
from cotbal.data.pictures import Pictures
from cotbal.data.vqa import Target

VQA = "\nAnswer the question using a single word or phrase."


def target(out: Path, within: str = "", **options: Any) -> Target:
    return Target(out, Pictures(within), **options)


def inputs(**options: Any) -> Inputs:
    return Inputs(**options)


def train(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "train.json").read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(record: dict[str, Any]) -> list[tuple[str, str]]:
    """The questions, without picture and instruction, and their answers."""
    turns = record["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    values = [turn["value"] for turn in turns]
    values[0] = values[0].removeprefix("<image>\n").removesuffix(VQA)
    return list(zip(values[::2], values[1::2], strict=True))


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
