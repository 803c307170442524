"""A user's JSON file that holds one object."""

import json
from pathlib import Path
from typing import Any


def json_object(path: str | Path, expected: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        expected: what it should hold, for the error message.
        remedy: what to do where it does not, likewise.

    Raises:
        OSError: no such file.
        ValueError: not JSON, or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected {expected}, a JSON object, got {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected {expected}, a JSON object, got {type(content).__name__}; {remedy}"
        )
    return content
