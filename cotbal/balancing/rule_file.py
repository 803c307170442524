"""A rule that changes the weights in every step, as a JSON file: its name, its options, fixed tasks."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cotbal.balancing._json import to_json
from cotbal.balancing.base import Weighting
from cotbal.balancing.registry import by_name
from cotbal.balancing.static import StaticWeights
from cotbal.files import write_text_atomically

SCHEMA_VERSION = 1
KEYS = ("schema_version", "rule", "options", "fixed", "tasks")


def save_rule(weighting: Weighting, path: str | Path, tasks: Iterable[str] = ()) -> Path:
    """Return `path` after writing `rule_content` there.

    Args:
        weighting: any but constant weights. A rule that `by_name` does not know, TorchJD's or one's own, is
            written as a record: `load_rule` makes none of it, as its class is not in the file.
        path: the file.
        tasks: the names in the order of their ids, where they are known.

    Raises:
        ValueError: constant weights, which the file of a rule would lose.

    Example:
        >>> import tempfile
        >>> from cotbal.balancing import DWA
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_rule(save_rule(DWA(window=10), Path(folder) / "rule.json")).options
        {'window': 10, 'temperature': 2.0}
    """
    if isinstance(weighting, StaticWeights):
        raise ValueError(
            "weighting: expected a rule, got constant weights; write them by TaskWeights({...}).save(path)"
        )
    content = rule_content(weighting, tasks)
    return write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def rule_content(weighting: Weighting, tasks: Iterable[str] = ()) -> dict[str, Any]:
    """Return the rule as JSON, `{"schema_version", "rule", "options", "fixed", "tasks"}`; as `save_rule`.

    Example:
        >>> from cotbal.balancing import TLA
        >>> rule_content(TLA(), ["a", "b"])
        {'schema_version': 1, 'rule': 'TLA', 'options': {}, 'fixed': {}, 'tasks': ['a', 'b']}
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "rule": type(weighting).__name__,
        "options": to_json(weighting.options, "options"),
        "fixed": dict(weighting.fixed),
        "tasks": list(tasks),
    }


def load_rule(path: str | Path) -> Weighting | None:
    """Return the rule in a file that `save_rule` wrote; None where the file holds something else, as weights.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, a rule without its schema version or of another one, or names a rule or
            an option that is not known.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "weights.json"
        ...     _ = file.write_text('{"schema_version": 1, "rule": "cotbal", "weights": {"a": 1.0}}')
        ...     print(load_rule(file))
        None
    """
    try:
        # Editors on Windows put a mark in front.
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        # A task may be called rule: its weight is no text.
        named = isinstance(content, dict) and isinstance(content.get("rule"), str)
        if not named or "weights" in content:
            return None
        return _rule(content)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON, as `cotbal weights` writes it, got another text ({error}); a score "
            "table goes through `cotbal weights` first"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _rule(content: Mapping[str, Any]) -> Weighting:
    if unknown := sorted(set(content) - set(KEYS)):
        raise ValueError(f"unknown keys: {', '.join(unknown)}; expected {', '.join(KEYS)}")
    if "schema_version" not in content:
        raise ValueError(
            f"schema_version: expected {SCHEMA_VERSION} beside the rule, got none; write "
            f'{{"schema_version": {SCHEMA_VERSION}, "rule": "{content["rule"]}", ...}}'
        )
    if content["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version: expected {SCHEMA_VERSION}, got {content['schema_version']!r}; "
            "write the file with this version of cotbal, or upgrade cotbal"
        )
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise ValueError(f"options: expected an object, got {type(options).__name__}")
    fixed = {"fixed": content["fixed"]} if content.get("fixed") else {}
    return by_name(content["rule"].lower(), **options, **fixed)
