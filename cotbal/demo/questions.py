"""The eight tasks of the digit world: what they ask about a scene and what the right answer is.

Seven mirror the paper's tasks and take weights; `chat` is text only, like the paper's ShareGPT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from cotbal.demo.world import COLUMNS, ROWS, SIZE, Digit, Scene

Turn = tuple[str, str]
COUNT_WORDS = ("zero", "one", "two", "three", "four")
ONE_WORD = "answer with a single word ."


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        paper: the task of the paper that it stands for.
        metric: the name of its score, "EM", "CIDEr" or "IoU".
        instruction: the response format, said once at the end of the first question.
        ask: `(scene, rng) -> turns`, every question at most once, in random order; a text-only task ignores
            the scene.
        least_digits: the fewest digits of its scenes; 0 means that it has no picture.
        turns: questions per training conversation, where the scene allows so many.
    """

    paper: str
    metric: str
    instruction: str
    ask: Callable[[Scene, np.random.Generator], list[Turn]]
    least_digits: int
    turns: int


def format_box(box: tuple[int, int, int, int]) -> str:
    """The box as text: four words of two decimals in 0..1 of the picture, between brackets."""
    return f"[ {' '.join(f'{value / SIZE:.2f}' for value in box)} ]"


def describe(digit: Digit) -> str:
    """For example "red 3 at top left"."""
    return f"{digit.color} {digit.value} at {digit.place}"


def caption(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """One sentence that names every digit, its colour and its place."""
    count = len(scene.digits)
    head = f"{COUNT_WORDS[count]} {'digit' if count == 1 else 'digits'} :"
    return [("describe the image .", f"{head} {' , '.join('a ' + describe(d) for d in scene.digits)}")]


def vqa(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """How many digits; which digit has a colour; which colour a digit has (if there is one of it)."""
    values = [digit.value for digit in scene.digits]
    turns = [("how many digits are there ?", COUNT_WORDS[len(values)])]
    turns += [(f"what digit is {d.color} ?", str(d.value)) for d in scene.digits]
    unique = [digit for digit in scene.digits if values.count(digit.value) == 1]
    turns += [(f"what color is the {d.value} ?", d.color) for d in unique]
    return _shuffled(turns, rng)


def rel(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """In which row or column a digit stands, and how two digits lie: there as often yes as no."""
    places = [(f"in which row is the {digit.color} digit ?", ROWS[digit.row]) for digit in scene.digits]
    places += [(f"in which column is the {d.color} digit ?", COLUMNS[d.column]) for d in scene.digits]
    relations = [
        (f"is the {a.color} digit {relation} the {b.color} digit ?", "yes" if holds else "no")
        for a, b in permutations(scene.digits, 2)
        for relation, holds in _relations(a, b).items()
    ]
    return _shuffled(places + _balanced(relations, rng), rng)


def _relations(a: Digit, b: Digit) -> dict[str, bool]:
    return {
        "left of": a.column < b.column,
        "right of": a.column > b.column,
        "above": a.row < b.row,
        "below": a.row > b.row,
    }


def _balanced(turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    """Two questions of either answer; every scene of two digits or more has them."""
    mixed = _shuffled(turns, rng)
    return [turn for answer in ("yes", "no") for turn in [t for t in mixed if t[1] == answer][:2]]


def chart(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """The sum, the largest and the smallest of all digits."""
    values = [digit.value for digit in scene.digits]
    return _shuffled(
        [
            ("what is the sum of all digits ?", str(sum(values))),
            ("what is the largest digit ?", str(max(values))),
            ("what is the smallest digit ?", str(min(values))),
        ],
        rng,
    )


def ocr(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """All digits in reading order."""
    return [("read all digits in order .", " ".join(str(digit.value) for digit in scene.digits))]


def regcap(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """What stands in a given box."""
    return _shuffled([(f"region {format_box(d.box)}", f"the {describe(d)}") for d in scene.digits], rng)


def bbox(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """The box of a given digit."""
    return _shuffled([(f"the {d.color} {d.value}", format_box(d.box)) for d in scene.digits], rng)


def chat(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Sums, differences and successors of numbers, without a picture."""
    turns: dict[str, str] = {}
    while len(turns) < TASKS["chat"].turns:
        a, b = (int(value) for value in rng.integers(0, 10, 2))
        question, answer = (
            (f"what is {a} plus {b} ?", a + b),
            (f"what is {max(a, b)} minus {min(a, b)} ?", max(a, b) - min(a, b)),
            (f"what comes after {a} ?", a + 1),
        )[int(rng.integers(3))]
        turns[question] = str(answer)
    return list(turns.items())


def align(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """The base stage's dense description, in one of two orders, sometimes with the last digit's box.

    Digit first and in reading order, the model learns to go over the patches and read each. Colour first and
    in random order, it learns to find a patch by what it shows. Boxes everywhere would drown both in
    coordinates; without any, the mini run would not know their words.
    """
    if rng.random() < 0.5:
        return [("list everything .", " ".join(f"{d.value} {d.color} {d.place}" for d in scene.digits))]
    digits = [scene.digits[index] for index in rng.permutation(len(scene.digits))]
    text = " ".join(f"{d.color} {d.place} {d.value}" for d in digits)
    if rng.random() < 0.25:
        text += f" {format_box(digits[-1].box)}"
    return [("list everything .", text)]


def _shuffled(turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    return [turns[index] for index in rng.permutation(len(turns))]


TASKS: dict[str, Task] = {
    "caption": Task("ShareGPT4V", "CIDEr", "use a full sentence .", caption, 1, 1),
    "vqa": Task("VQAv2", "EM", ONE_WORD, vqa, 2, 4),
    "rel": Task("GQA", "EM", ONE_WORD, rel, 2, 4),
    "chart": Task("ChartQA", "EM", ONE_WORD, chart, 2, 3),
    "ocr": Task("OCRVQA", "EM", "answer with digits only .", ocr, 1, 1),
    "regcap": Task("RefCOCO-caption", "CIDEr", "describe each region .", regcap, 2, 4),
    "bbox": Task("RefCOCO-bbox", "IoU", "give the box of each phrase .", bbox, 2, 4),
    "chat": Task("ShareGPT", "EM", ONE_WORD, chat, 0, 3),
}
