"""The bridge between estimation and training: one weight per task, with where it came from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotbal.files import distinct_keys, is_finite, write_text_atomically
from cotbal.tasks import task_names, unknown_task

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
_FILE_KEYS = {"schema_version", "weights", "rule", "temperature", "alpha", "fixed", "provenance"}


@dataclass(frozen=True, eq=True)
class TaskWeights(Mapping[str, float]):
    """The weight of every task, a mapping from task name to float.

    Args:
        weights: weight by task, each finite and >= 0; fixed tasks included.
        rule: the rule that gave the weights, "given" when they were stated by hand.
        temperature: T of Eq. 5, 7 and 10, None where the rule has none.
        alpha: alpha of Eq. 11, None where the rule has none.
        fixed: the tasks whose weight was stated rather than estimated, with that weight.
        provenance: whatever tells how the weights came about, as JSON values.

    Raises:
        TypeError: a weight, T or alpha is not a number, a task is not a string.
        ValueError: no task, a weight that is negative or not finite, a fixed task whose weight differs.

    Example:
        >>> weights = TaskWeights({"VQAv2": 0.8, "GQA": 1.2})
        >>> weights["GQA"], weights.to_tensor(["GQA", "VQAv2"])
        (1.2, tensor([1.2000, 0.8000]))
    """

    weights: dict[str, float]
    rule: str = "given"
    temperature: float | None = None
    alpha: float | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights(self.weights, "weights"))
        object.__setattr__(self, "fixed", checked_weights(self.fixed, "fixed") if self.fixed else {})
        if not isinstance(self.provenance, Mapping):
            raise TypeError(f"provenance: expected a mapping, got {type(self.provenance).__name__}")
        object.__setattr__(self, "provenance", dict(self.provenance))
        for name in ("temperature", "alpha"):
            value = getattr(self, name)
            # A number of NumPy's could not be saved.
            object.__setattr__(self, name, None if value is None else _checked_number(value, name))
        for task, weight in self.fixed.items():
            if self.weights.get(task) != weight:
                raise ValueError(
                    f"fixed: task {task!r} is fixed at {weight}, but its weight is {self.weights.get(task)}; "
                    "give both the same value"
                )

    def __getitem__(self, task: str) -> float:
        if task not in self.weights:
            raise KeyError(f"no weight for task {unknown_task(task, self.weights)}")
        return self.weights[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def to_tensor(self, tasks: Iterable[str], device: torch.device | str | None = None) -> torch.Tensor:
        """Return the weights as a tensor (N,) fp32 in the order of `tasks`, the order of the task ids.

        Raises:
            ValueError: a task has no weight or comes twice, or its weight is too small or large for float32.
        """
        import torch

        names = task_names(tasks)
        for name in names:
            if name not in self.weights:
                raise ValueError(
                    f"tasks: no weight for task {unknown_task(name, self.weights)}. Add it to the weights, "
                    "or estimate again with it among the tasks or the fixed tasks"
                )
        check_float32({name: self.weights[name] for name in names}, "weights")
        return torch.tensor([self.weights[name] for name in names], dtype=torch.float32, device=device)

    def save(self, path: str | Path) -> Path:
        """Return `path` after writing the weights there as JSON, whole or not at all."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "weights": self.weights,
            "rule": self.rule,
            "temperature": self.temperature,
            "alpha": self.alpha,
            "fixed": self.fixed,
            "provenance": self.provenance,
        }
        return write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path, tasks: Iterable[str] | None = None) -> TaskWeights:
        """Return the weights in a JSON file: what `save` wrote, `{task: weight}`, or a list `[weight, ...]`.

        Args:
            path: the file.
            tasks: the names of a list's weights, in its order; a file with names needs none.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not JSON, of another schema version, or its weights are not valid.
        """
        try:
            # Editors on Windows put a mark in front.
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=distinct_keys)
            return cls.of_list(content, tasks) if isinstance(content, list) else cls._from_json(content)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected {{task: weight}} as JSON in UTF-8, got {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def of_list(cls, weights: Sequence[float], tasks: Iterable[str] | None) -> TaskWeights:
        """Return the weights of a list in the order of `tasks`.

        Raises:
            ValueError: no names, or not one for each weight.
        """
        names = () if tasks is None else task_names(tasks)
        if len(names) != len(weights):
            raise ValueError(
                f"tasks: expected the names of the list's {len(weights)} weights in its order, "
                f"got {', '.join(names) or 'none'}"
            )
        return cls(dict(zip(names, weights, strict=True)))

    @classmethod
    def _from_json(cls, content: object) -> TaskWeights:
        if not isinstance(content, dict):
            raise ValueError(f"expected a JSON object, got {type(content).__name__}")
        # A task may be called rule: its weight is no text.
        if isinstance(content.get("rule"), str) and "weights" not in content:
            raise ValueError(
                f"expected {{task: weight}}, got the rule {content['rule']!r}, which makes its weights in "
                "every step and has none in its file; give a file of weights"
            )
        if "schema_version" not in content:
            if isinstance(content.get("weights"), dict):
                raise ValueError(
                    f"schema_version: expected {SCHEMA_VERSION} beside the weights, got none; write "
                    f'{{"schema_version": {SCHEMA_VERSION}, "weights": {{...}}}}, or {{task: weight}} alone'
                )
            return cls(content)
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: expected {SCHEMA_VERSION}, got {content['schema_version']!r}; "
                "write the file with this version of cotbal, or upgrade cotbal"
            )
        if unknown := sorted(set(content) - _FILE_KEYS):
            raise ValueError(f"unknown keys: {', '.join(unknown)}; expected {', '.join(sorted(_FILE_KEYS))}")
        if "weights" not in content:
            raise ValueError("expected a key 'weights' holding {task: weight}, got none")
        return cls(**{key: value for key, value in content.items() if key != "schema_version"})


def checked_weights(weights: Mapping[str, float], parameter: str) -> dict[str, float]:
    """Return the weights as a dict of floats, each finite and >= 0.

    Raises:
        TypeError: not a mapping, or a weight is not a number.
        ValueError: empty, or a weight that is negative or not finite.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"{parameter}: expected a mapping from task to weight, got {type(weights).__name__}")
    names = task_names(weights, parameter)
    return {name: _checked_weight(weights[name], f"{parameter}[{name!r}]") for name in names}


def check_float32(weights: Mapping[str, float], parameter: str) -> None:
    """Checks that float32, in which the loss has its weights, holds each.

    Raises:
        ValueError: one would become 0, of which nothing is trained, or infinite.
    """
    for name, weight in weights.items():
        held = c_float(weight).value
        if not math.isfinite(held) or (held == 0) != (weight == 0):
            raise ValueError(
                f"{parameter}: task {name!r}: {weight:g} is {held:g} in float32; scale all weights alike, "
                "the loss divides by their mean"
            )


def _checked_weight(value: object, where: str) -> float:
    number = _checked_number(value, where)
    if number < 0:
        raise ValueError(f"{where}: expected a finite weight >= 0, got {value}")
    return number


def _checked_number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where}: expected a number, got {value!r}")
    if not is_finite(value):
        raise ValueError(f"{where}: expected a finite number, got {str(value)[:80]}")
    return float(value)
