"""Records to train on: LLaVA's conversations, and messages as chat models have them."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

IMAGE = "<image>"
# What a model writes before it is no part of an answer.
END_OF_THOUGHT = "</think>"
_FORMS = {"conversations": ("from", "value"), "messages": ("role", "content")}
SYSTEM = "system"
_ROLES = {"human": "user", "gpt": "assistant"}
# Of an answer, where False or 0 means that it is not to be learned.
_TRAINED = ("loss", "weight", "train", "training")
# Of a turn, what says more of an answer or a question than its text, and would be told to no model.
_UNREAD = (
    "tool_calls",
    "tools",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "train_detail",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
)


class Turn(NamedTuple):
    """What one side says.

    Attributes:
        role: "system", "user" or "assistant".
        text: with an `<image>` for each picture.
    """

    role: str
    text: str


class Dialogue(NamedTuple):
    """A record: perhaps a system message, then questions and answers in turn.

    Attributes:
        turns: in their order.
        images: paths of the pictures.
    """

    turns: tuple[Turn, ...]
    images: tuple[str, ...]


def read_dialogue(record: Mapping[str, Any], form: str = "conversations") -> Dialogue:
    """The dialogue of a record.

    Args:
        record: `{"conversations": [{"from": "human" | "gpt" | "system", "value"}, ...]}` or
            `{"messages": [{"role": "user" | "assistant" | "system", "content"}, ...]}`, its pictures, a path
            or a list of paths, under "image" or "images"; a system message may be under "system" instead.
        form: "conversations" or "messages".

    Raises:
        ValueError: it is no such record.
    """
    role, text = _FORMS[form]
    found = record.get(form)
    try:
        turns = [Turn(_ROLES.get(turn[role], turn[role]), turn[text]) for turn in found or ()]
    except (KeyError, TypeError):
        turns = []
    roles = [turn.role for turn in turns]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    if not asked or asked != ["user", "assistant"] * (len(asked) // 2):
        question, answer = ("human", "gpt") if form == "conversations" else ("user", "assistant")
        raise ValueError(
            f'expected `{form}` as [{{"{role}": "{question}", "{text}": "..."}}, {{"{role}": "{answer}", '
            f'"{text}": "..."}}, ...], in turn, got {json.dumps(found)[:100]}{_misfit(roles, found, role)}'
        )
    for turn, given in zip(turns, found or (), strict=True):
        _check_keys(given, text, turn.role == "assistant")
        _check_text(turn.text, text)
    if record.get(SYSTEM):
        if roles[0] == "system":
            raise ValueError(f"expected one system message, got `{SYSTEM}` and a first turn of it; keep one")
        _check_text(record[SYSTEM], SYSTEM)
        turns.insert(0, Turn("system", record[SYSTEM]))
    return Dialogue(tuple(turns), _images(record))


def _check_keys(turn: Mapping[str, Any], text: str, is_answer: bool) -> None:
    """Raises ValueError for a key that takes something out of the training, or would be left out of it."""
    # Exports of a table have each key in every turn, empty where it says nothing.
    if unread := [key for key in _UNREAD if turn.get(key)]:
        raise ValueError(
            f"expected all that a turn says in its `{text}`, got a turn's {unread[0]!r}, which is not read; "
            "move what it says there, or take it out"
        )
    for key in _TRAINED:
        if is_answer and key in turn and turn[key] in (False, 0):
            raise ValueError(
                f"expected answers that are all trained on, got a turn of {key!r} {turn[key]!r}; part "
                "the record, or take the key out"
            )


def _misfit(roles: list[Any], found: Any, key: str) -> str:
    """Which turn is out of turn, as a record's beginning may not show it; nothing where there are none."""
    first = int(roles[:1] == ["system"])
    wrong = next((n for n, role in enumerate(roles[first:]) if role != ("user", "assistant")[n % 2]), None)
    if wrong is not None:
        return f"; turn {first + wrong + 1} of {len(roles)} is by {found[first + wrong][key]!r}"
    return f"; the last of {len(roles)} turns has no answer" if roles else ""


def _images(record: Mapping[str, Any]) -> tuple[str, ...]:
    # Exports of a table have each key in every record, empty where it says nothing.
    given = [key for key in ("image", "images") if record.get(key) not in (None, [])]
    if len(given) == 2:
        raise ValueError("expected the pictures in `image` or in `images`, got both; keep one")
    key = given[0] if given else None
    images = [] if key is None else record[key]
    images = images if isinstance(images, list) else [images]
    for image in images:
        _check_text(image, str(key))
        if not image:
            raise ValueError(f'expected a path in `{key}`, got ""; a record without a picture has no `{key}`')
    return tuple(images)


def _check_text(text: Any, key: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"expected a text in `{key}`, got {json.dumps(text)[:100]}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected Unicode characters in `{key}`, got half of one: {error}") from error
