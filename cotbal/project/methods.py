"""The methods that final models are compared by, by the names of the paper: `CoTBal T=1`, `DWA window=10`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from cotbal.balancing import Weighting, by_name
from cotbal.estimate.rule_names import USE_DIFFICULTY
from cotbal.project.config import Project

STL, EW = "STL", "EW"
# What each name weighs the tasks by: a rule of Algorithm 1, or one of each step.
RULES = {
    "CoTBal": "cotbal",
    "contribution": "contribution",
    "one2all": "one2all",
    "all2one": "all2one",
    "difficulty": "difficulty",
}
DYNAMIC = ("TLA", "RLW", "DWA", "IGBv1")
NAMES = (STL, EW, *DYNAMIC, *RULES)
SUITES = {
    "table2": (STL, EW, *DYNAMIC, "CoTBal"),
    "table3": (
        EW,
        *("CoTBal T=2", "CoTBal T=1", "CoTBal T=0.5"),
        *("one2all", "all2one", "contribution", "difficulty", "CoTBal"),
        *("CoTBal D=precise", "CoTBal D=real"),
    ),
}


@dataclass(frozen=True)
class Method:
    """A way to train final models; two are equal where they train the same ones.

    Attributes:
        name: as it was asked for.
        kind: a name in `NAMES`.
        options: everything that decides the weights, the file's values included.
    """

    name: str = field(compare=False)
    kind: str
    options: Mapping[str, Any]

    @property
    def rule(self) -> str | None:
        """The rule of Algorithm 1 that gives the weights, None where none does."""
        return RULES.get(self.kind)

    def weighting(self, fixed: Mapping[str, float], seed: int) -> Weighting:
        """The rule of each step of a dynamic method; RLW draws by the seed unless it was asked otherwise."""
        if self.kind == "TLA":
            # For it a task of fixed weight is one more task.
            return by_name("tla")
        options = {"seed": seed, **self.options} if self.kind == "RLW" else self.options
        return by_name(self.kind.lower(), **options, fixed=dict(fixed) or None)

    def run_name(self, project: Project) -> str:
        """What tells its trainings from other methods': the kind and what differs from the file."""
        if self.rule is None:
            return _spell(self.kind, self.options)
        own = _of_file(self.kind, project)
        return _spell(self.kind, {key: value for key, value in self.options.items() if value != own[key]})


def parse_methods(texts: list[str] | tuple[str, ...], project: Project) -> list[Method]:
    """The methods by their names, those of a suite in the place of its name; none comes twice.

    Args:
        texts: such as "EW", "CoTBal T=1" or "table2".
        project: has the values that a name does not state.

    Raises:
        ValueError: an unknown name or option, or a value that is out of range.
    """
    names = [name for text in texts for name in SUITES.get(text, (text,))]
    methods = {method.name: method for method in (parse_method(name, project) for name in names)}
    return list(methods.values())


def parse_method(text: str, project: Project) -> Method:
    """The method of a name with its options, such as "CoTBal T=1 D=precise".

    Raises:
        ValueError: an unknown name or option, or a value that is out of range.
    """
    kind, pairs = _kind(text), _pairs(text)
    if kind in RULES:
        return _of_algorithm1(kind, pairs, project)
    if kind in (STL, EW):
        if pairs:
            raise ValueError(f"method {text!r}: {kind} has no options")
        return Method(kind, kind, {})
    options = {key: _number(text, key, value) for key, value in pairs.items()}
    try:
        by_name(kind.lower(), **options)
    except TypeError as error:
        known = ", ".join(by_name(kind.lower()).options) or "none"
        raise ValueError(f"method {text!r}: {kind} has the options: {known}") from error
    except ValueError as error:
        raise ValueError(f"method {text!r}: {error}") from error
    return Method(_spell(kind, options), kind, options)


def default_method(project: Project) -> Method:
    """The method whose weights the file asks for."""
    names = {rule: name for name, rule in RULES.items()} | {"equal": EW}
    return parse_method(names[project.rule], project)


def _kind(text: str) -> str:
    word = (text.split() or [""])[0]
    by_lower = {name.lower(): name for name in NAMES}
    if word.lower() not in by_lower:
        close = get_close_matches(word.lower(), by_lower, n=1)
        hint = f"did you mean {by_lower[close[0]]}? " if close else ""
        suites = " or ".join(SUITES)
        raise ValueError(
            f"method: expected one of {', '.join(NAMES)}, or {suites}, got {word!r}; {hint}".strip("; ")
        )
    return by_lower[word.lower()]


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in text.split()[1:]:
        key, equals, value = word.partition("=")
        if not (key and equals and value) or key in pairs:
            raise ValueError(f"method {text!r}: expected option=value, each once, got {word!r}")
        pairs[key] = value
    return pairs


def _of_algorithm1(kind: str, pairs: Mapping[str, str], project: Project) -> Method:
    text = " ".join([kind, *(f"{key}={value}" for key, value in pairs.items())])
    known = _of_file(kind, project)
    given: dict[str, Any] = {}
    for key, value in pairs.items():
        if key not in known:
            raise ValueError(f"method {text!r}: {kind} has the options: {', '.join(known)}")
        given[key] = value if key == "D" else _number(text, key, value)
    if not 0 < given.get("T", 1) < math.inf:
        raise ValueError(f"method {text!r}: T: expected a number > 0")
    if not 0 <= given.get("alpha", 1) <= 1:
        raise ValueError(f"method {text!r}: alpha: expected a number in 0..1")
    if given.get("D", "real") not in ("real", "precise"):
        raise ValueError(f"method {text!r}: D: expected real or precise")
    if project.shrink and given.get("D") == "precise":
        raise ValueError(
            f"method {text!r}: shrink: the runs of D=precise have no items, which it needs; drop it from the "
            "file, or leave this method out"
        )
    if project.mode == "no-probes" and (kind != "CoTBal" or given.get("D") == "precise"):
        raise ValueError(f"method {text!r}: mode no-probes measures no contribution and has CoTBal alone")
    return Method(_spell(kind, given), kind, {**known, **given})


def _of_file(kind: str, project: Project) -> dict[str, Any]:
    """The options of a rule of Algorithm 1 as the file has them, without those that it does not use."""
    options: dict[str, Any] = {"T": project.temperature}
    if kind == "CoTBal":
        options["alpha"] = project.alpha
    if RULES[kind] in USE_DIFFICULTY:
        options["D"] = "precise" if project.precise else "real"
    return options


def _number(text: str, key: str, value: str) -> float | int:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"method {text!r}: {key}: expected a number, got {value!r}") from None
    return int(number) if number.is_integer() and "." not in value else number


def _spell(kind: str, options: Mapping[str, Any]) -> str:
    # finals.json keeps names alone.
    words = [f"{key}={str(value).removesuffix('.0')}" for key, value in options.items()]
    return " ".join([kind, *words])
