"""Turns on one picture as records of conversations."""

from collections.abc import Iterable, Iterator
from typing import Any

from cotbal.data.turns import Turn
from cotbal.files import slug


def conversation(id: str, image: str | None, turns: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A record; the picture comes before the first question."""
    values: list[dict[str, str]] = []
    for question, answer in turns:
        first = "<image>\n" if image is not None and not values else ""
        values += [{"from": "human", "value": first + question}, {"from": "gpt", "value": answer}]
    picture = {} if image is None else {"image": image}
    return {"id": id, **picture, "conversations": values}


def merged(
    task: str, groups: Iterable[list[Turn]], *, instruction: str | None = None, at_most: int | None = None
) -> Iterator[dict[str, Any]]:
    """A record for the turns of each picture.

    Args:
        task: begins their ids.
        groups: the turns of one picture after the other.
        instruction: stands once, at the end of the first question.
        at_most: turns of a record; a picture with more has several records.
    """
    for turns in groups:
        image = turns[0].image
        step = at_most or len(turns)
        parts = [turns[place : place + step] for place in range(0, len(turns), step)]
        for number, part in enumerate(parts, start=1):
            first, *rest = [(turn.question, turn.answer) for turn in part]
            # With its ending: 1.jpg and 1.png are two pictures, and so are 1.jpg's first part and 1-1.jpg.
            suffix = f"-{number}" if len(parts) > 1 else ""
            yield conversation(
                f"{slug(task)}-{image}{suffix}", image, [(asked(first[0], instruction), first[1]), *rest]
            )


def asked(question: str, instruction: str | None) -> str:
    """The question, with its response format instruction at the end."""
    return question if instruction is None else f"{question}\n{instruction}"
