"""The bounds of the kernels on a GPU, checked against a results file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.inputs import Case
from benchmarks.plan import BARE

# From this many rows on the linear bounds hold; smaller ones are published.
_LINEAR_ROWS = 8192


@dataclass(frozen=True)
class Bound:
    """One bound at one case.

    Attributes:
        what: in words.
        case: where.
        value: what was measured, None where it could not be.
        limit: what it is held against.
        at_least: whether the value must be at least or at most the limit.
    """

    what: str
    case: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def check_bounds(content: dict[str, Any]) -> list[Bound]:
    """Every bound that the cases of a results file call for."""
    by_case: dict[Case, dict[str, dict[str, Any]]] = {}
    for result in content["results"]:
        by_case.setdefault(Case(**result["case"]), {})[result["provider"]] = result
    found: list[Bound] = []
    for case, results in by_case.items():
        if case.level == "logits":
            found += _logits_bounds(case, results, content["ceilings"]["copy_bytes_per_s"])
        else:
            found += _linear_bounds(case, results)
        found += _synchronisations(case, results)
    return found


def _logits_bounds(case: Case, results: dict[str, dict[str, Any]], copy: float) -> Iterator[Bound]:
    ours = _time(results.get("cotbal"))
    if case.share == 1.0 and case.kind == "random" and case.upstream == 1.0:
        share = None if ours is None else results["cotbal"]["bytes_per_s"] / copy
        yield Bound("4 N V / time against the copy", str(case), share, _bandwidth_limit(case))
    yield Bound("Liger's time / ours", str(case), _ratio(_time(results.get("Liger")), ours), 1.5)
    rivals = [_time(result) for name, result in results.items() if not result.get("ours")]
    fastest = min((time for time in rivals if time is not None), default=None)
    yield Bound("the fastest rival's time / ours", str(case), _ratio(fastest, ours), 1.0)


def _bandwidth_limit(case: Case) -> float:
    if case.vocabulary <= 32768:
        return 0.85
    return 0.80 if case.vocabulary <= 152064 else 0.60


def _linear_bounds(case: Case, results: dict[str, dict[str, Any]]) -> Iterator[Bound]:
    ours = _time(results.get("cotbal"))
    if case.rows < _LINEAR_ROWS:
        return
    if case.share == 1.0:
        bare = _time(results.get(BARE))
        yield Bound("our time / the bare products'", str(case), _ratio(ours, bare), 1.08, at_least=False)
    rivals = {
        name: result
        for name, result in results.items()
        if not result.get("ours") and name != BARE and _time(result) is not None and result["weighted"]
    }
    exact = {name: _time(result) for name, result in rivals.items() if result["exact"]}
    fastest = min((time for time in exact.values() if time is not None), default=None)
    yield Bound("the best exact weightable rival's time / ours", str(case), _ratio(fastest, ours), 1.25)
    if case.share == 0.2:
        for name, result in rivals.items():
            if not result["compacts"]:
                yield Bound(f"{name}'s time / ours", str(case), _ratio(_time(result), ours), 4.0)


def _synchronisations(case: Case, results: dict[str, dict[str, Any]]) -> Iterator[Bound]:
    for name, result in results.items():
        if result.get("synchronisations"):
            count = 0.0 if result["synchronisations"] == "none" else 1.0
            yield Bound(f"host synchronisations of {name}", str(case), count, 0.0, at_least=False)


def _time(result: dict[str, Any] | None) -> float | None:
    return result["milliseconds"] if result is not None and result["status"] == "ok" else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def bounds_in_words(bounds: list[Bound]) -> str:
    """A line for each bound, and how many hold."""
    words = {True: "pass", False: "FAIL", None: "not measured"}
    lines = [
        f"{words[bound.passed]:<12}  {bound.what:<46} "
        f"{'-' if bound.value is None else format(bound.value, '.3f'):>8} "
        f"({'>=' if bound.at_least else '<='} {bound.limit:g})  {bound.case}"
        for bound in bounds
    ]
    passed, failed = (sum(bound.passed is outcome for bound in bounds) for outcome in (True, False))
    return "\n".join(
        [*lines, f"bounds: {passed} pass, {failed} fail, {len(bounds) - passed - failed} not measured"]
    )
