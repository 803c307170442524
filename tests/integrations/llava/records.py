"""Records of four tasks in LLaVA's JSON: with an image or without, one word or many, one turn or three."""

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TASKS = ("vqa", "caption", "grounding", "chat")
# Uneven, as in life: a task's share of samples is not its share of tokens.
_COUNTS = {"vqa": 20, "caption": 12, "grounding": 8, "chat": 8}
_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
_SHAPES = ("circle", "square", "stripe")
_SIDE = 40


def make_records(images: Path) -> list[dict[str, Any]]:
    """48 records in an order that mixes the tasks, and the images that they name; always the same."""
    generator = random.Random(0)
    images.mkdir(parents=True)
    tasks = [task for task, count in _COUNTS.items() for _ in range(count)]
    generator.shuffle(tasks)
    return [_record(number, task, generator, images) for number, task in enumerate(tasks)]


def texts(records: list[dict[str, Any]]) -> list[str]:
    """What the tokenizer learns its pieces from."""
    return [turn["value"].replace("<image>", "") for record in records for turn in record["conversations"]]


def _record(number: int, task: str, generator: random.Random, images: Path) -> dict[str, Any]:
    colour, shape = generator.choice(_COLOURS), generator.choice(_SHAPES)
    turns = _TURNS[task](colour, shape, generator)
    # The number makes each question unlike the others: a row of a batch tells which record it is.
    question = f"{number:02d} " + turns[0][0]
    record: dict[str, Any] = {"id": f"{task}-{number}", "task": task}
    if task != "chat":
        record["image"] = f"{number}.png"
        _draw(colour, shape).save(images / record["image"])
        question = "<image>\n" + question
    turns[0] = (question, turns[0][1])
    record["conversations"] = [
        {"from": speaker, "value": value}
        for turn in turns
        for speaker, value in zip(("human", "gpt"), turn, strict=True)
    ]
    return record


def _vqa(colour: str, shape: str, generator: random.Random) -> list[tuple[str, str]]:
    turns = [("Which colour is it?", colour), ("Which shape is it?", shape), ("Is it a circle?", "no")]
    return turns[: generator.randint(1, 3)]


def _caption(colour: str, shape: str, generator: random.Random) -> list[tuple[str, str]]:
    answer = f"The picture shows one large {colour} {shape} on a plain grey ground"
    extra = (
        ", seen from the front, in even light and without any shadow." if generator.random() < 0.5 else "."
    )
    return [("Describe the picture.", answer + extra)]


def _grounding(colour: str, shape: str, generator: random.Random) -> list[tuple[str, str]]:
    box = ", ".join(f"0.{generator.randint(10, 99)}" for _ in range(4))
    return [(f"Where is the {colour} {shape}?", f"[{box}]")]


def _chat(colour: str, shape: str, generator: random.Random) -> list[tuple[str, str]]:
    steps = ["take a brush", "mix the paint", "draw the outline", "fill it", "let it dry"]
    count = generator.randint(2, 5)
    return [(f"How do I paint a {colour} {shape}?", "First " + ", then ".join(steps[:count]) + ".")]


_TURNS = {"vqa": _vqa, "caption": _caption, "grounding": _grounding, "chat": _chat}


def _draw(colour: str, shape: str) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), "grey")
    pen = ImageDraw.Draw(image)
    box = (8, 8, 32, 20 if shape == "stripe" else 32)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
    return image
