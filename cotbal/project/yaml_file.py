"""A YAML file whose mistakes are told with their line, their place and the key that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

Place = tuple[str | int, ...]
Lines = dict[Place, int]
# Characters of a value in a message.
SHOWN = 80
Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: str | Path, model: type[Model], changes: Mapping[str, Any]) -> Model:
    """The content of a file as a model.

    Args:
        path: the file.
        model: what it should hold.
        changes: values by key that take the place of the file's; options of those names said them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not YAML, a key stands twice or is not known, or a value does not fit. The message
            has the line, the place and, for a key, the one that was probably meant; or the option.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path}: expected text in UTF-8, got the byte 0x{byte:02x}; save it as UTF-8"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Lines = {(): 1}
        if node is not None:
            _note_lines(path, node, (), lines)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(_yaml_error(path, error)) from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        keys = ", ".join(list(model.model_fields)[:5])
        raise ValueError(
            f"{path}: expected the YAML of an estimate, keys such as {keys} with their values, got a "
            f"{type(content).__name__}, {_shown(content)}; `cotbal plan --recipes` shows some to copy"
        )
    try:
        return model.model_validate({**content, **changes})
    except ValidationError as error:
        raise ValueError(_first_mistake(path, error, model, lines, changes)) from error


def _note_lines(path: str | Path, node: yaml.Node, place: Place, lines: Lines) -> None:
    """Fills `lines` with where each key and list item stands; YAML itself lets a repeated key pass."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here, line = (*place, str(key.value)), key.start_mark.line + 1
            if here in lines:
                raise ValueError(f"{path}, line {line}: {_spell(here)} stands twice; keep one")
            lines[here] = line
            _note_lines(path, value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            here = (*place, number)
            lines[here] = value.start_mark.line + 1
            _note_lines(path, value, here, lines)


def _yaml_error(path: str | Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}, line {error.problem_mark.line + 1}: expected YAML, got {error.problem}"
    return f"{path}: expected YAML, got {error}"


def _first_mistake(
    path: str | Path,
    error: ValidationError,
    model: type[BaseModel],
    lines: Lines,
    changes: Mapping[str, Any],
) -> str:
    # A misspelt key is often a missing one too; the misspelling is what helps.
    mistakes = sorted(
        error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden"
    )
    first = mistakes[0]
    place = _place(first, lines)
    known = max((place[:end] for end in range(len(place) + 1) if place[:end] in lines), key=len)
    told = f"{path}, line {lines[known]}: {_spell(place)}{': ' if place else ''}"
    if (option := str(next(iter(first["loc"]), ""))) in changes:
        told = f"--{option.replace('_', '-')}: "
    message = told + _in_words(first, model)
    rest = len(mistakes) - 1
    return message + (f" (and {rest} more mistake{'s' if rest > 1 else ''})" if rest else "")


def _place(mistake: Mapping[str, Any], lines: Lines) -> Place:
    """Where a mistake is, without the names that pydantic gives to the members of a union."""
    *before, last = mistake["loc"] or ("",)
    place: Place = ()
    for step in before:
        if (*place, step) in lines:
            place = (*place, step)
    return (*place, last) if (*place, last) in lines or mistake["type"] == "missing" else place


def _in_words(mistake: Mapping[str, Any], model: type[BaseModel]) -> str:
    if mistake["type"] == "extra_forbidden":
        known = list(_model_at(model, mistake["loc"][:-1]).model_fields)
        close = get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key; {hint}Known keys: {', '.join(known)}"
    if mistake["type"] == "missing":
        return "this key is missing"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "value_error":
        return message
    # YAML reads `on`, 7 and 2024-01-01 as something else than text.
    scalar = isinstance(mistake["input"], bool | int | float | date)
    remedy = "; write it in quotes" if mistake["type"] == "string_type" and scalar else ""
    return f"{message[0].lower()}{message[1:]}, got {_shown(mistake['input'])}{remedy}"


def _shown(value: Any) -> str:
    """A value as Python writes it, cut: it may be a whole file."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _model_at(model: type[BaseModel], place: Iterable[str | int]) -> type[BaseModel]:
    """The model of the keys at a place: through fields, and through dicts of models."""
    for step in place:
        field = model.model_fields.get(str(step))
        if field is not None:
            model = next(_models_in(field.annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _spell(place: Place) -> str:
    return ".".join(str(step) for step in place)
