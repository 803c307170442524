"""Records of five tasks of LLaVA-NeXT: one image of any shape, several, frames of a video, none."""

import random
from pathlib import Path
from typing import Any

from PIL import Image

TASKS = ("vqa", "caption", "story", "video", "chat")
_COUNTS = {"vqa": 12, "caption": 8, "story": 6, "video": 6, "chat": 8}
_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
# Square, wide, tall, larger than the largest grid, a stripe.
_SHAPES = ((224, 224), (500, 220), (210, 480), (900, 900), (1000, 150))
# Its loader takes a folder of this name for frames, and needs no video library for it.
_FRAMES = "shareVideoGPTV"


def make_records(folder: Path) -> list[dict[str, Any]]:
    """40 records in an order that mixes the tasks, and their images below `folder`; always the same."""
    generator = random.Random(0)
    (folder / _FRAMES).mkdir(parents=True)
    return [_record(number, task, generator, folder) for number, task in enumerate(_shuffled())]


def task_order(tasks: list[str], n_each: int) -> list[int]:
    """Records to visit: one of each task, then the next of each, and so on."""
    places = [[number for number, task in enumerate(_shuffled()) if task == name] for name in tasks]
    return [places[task][turn] for turn in range(n_each) for task in range(len(tasks))]


def _shuffled() -> list[str]:
    tasks = [task for task, count in _COUNTS.items() for _ in range(count)]
    random.Random(1).shuffle(tasks)
    return tasks


def _record(number: int, task: str, generator: random.Random, folder: Path) -> dict[str, Any]:
    colour = generator.choice(_COLOURS)
    # The number makes each question unlike the others: a row of a batch tells which record it is.
    question, answer = f"{number:02d} " + _QUESTIONS[task], _answer(task, colour, generator)
    record: dict[str, Any] = {"id": f"{task}-{number}", "task": task}
    if task in ("vqa", "caption"):
        record["image"] = _draw(folder / f"{number}.png", colour, _SHAPES[number % len(_SHAPES)])
        question = "<image>\n" + question
    elif task == "story":
        count = 2 + number % 2
        record["image"] = [_draw(folder / f"{number}-{i}.png", colour, (240, 200)) for i in range(count)]
        question = "First <image> and then <image>. " + question + " <image>" * (count - 2)
    elif task == "video":
        record["video"] = _film(folder / _FRAMES / str(number), colour)
        question = "<image>\n" + question
    turns = (("human", question), ("gpt", answer))
    return record | {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


_QUESTIONS = {
    "vqa": "Which colour is it?",
    "caption": "Describe the picture.",
    "story": "What has changed?",
    "video": "What happens in the video?",
    "chat": "How do I paint a wall?",
}


def _answer(task: str, colour: str, generator: random.Random) -> str:
    if task == "vqa":
        return colour
    if task == "caption":
        extra = ", seen from the front, in even light and without any shadow"
        return f"The picture shows one large {colour} ground" + generator.choice(["", extra]) + "."
    if task == "chat":
        steps = ["take a brush", "mix the paint", "draw the outline", "fill it", "let it dry"]
        return "First " + ", then ".join(steps[: generator.randint(2, 5)]) + "."
    return f"It turns from {colour} to {generator.choice(_COLOURS)}."


def _draw(path: Path, colour: str, size: tuple[int, int]) -> str:
    Image.new("RGB", size, colour).save(path)
    return path.name


def _film(folder: Path, colour: str) -> str:
    folder.mkdir()
    for frame in range(4):
        _draw(folder / f"{frame}.png", colour, (260, 180))
    return f"{_FRAMES}/{folder.name}"
