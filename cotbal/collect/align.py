"""The items of one validation set in the same order in every run, and each run's score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from cotbal.collect.found import Found
from cotbal.collect.source import Source
from cotbal.collect.truth import some


@dataclass(frozen=True)
class ValidationSet:
    """One validation set in all runs.

    Attributes:
        scores: {run: score}.
        items: {run: scores in the order of the ids}; empty where there are none.
        images: the image of each item, an item without one being its own; empty where none tells its image.
        transform: "", "reciprocal" or "complement:BOUND".
        strata: of which set each item is, where these are several put together.
    """

    scores: dict[str, float]
    items: dict[str, list[float]]
    images: list[str]
    transform: str
    strata: list[int] = field(default_factory=list)


def align(source: Source, found: Mapping[str, Found]) -> ValidationSet:
    """Return the set, its items sorted by id (numbers by size).

    Raises:
        ValueError: runs with other items, another number of them or other images, a run with items and one
            without, a score of the tool's that is not its items' mean, or a metric of unknown direction.
    """
    transform = _transform(source, found)
    with_items = [run for run, each in found.items() if each.items is not None]
    if not with_items:
        _check_numbers(source, found)
        return ValidationSet({run: _own_score(each) for run, each in found.items()}, {}, [], transform)
    if without := [run for run in found if run not in with_items]:
        raise ValueError(
            f"{source}: run {with_items[0]!r} has items ({found[with_items[0]].files[-1]}), run "
            f"{without[0]!r} has none ({found[without[0]].files[0]}); give them for every run, or items=no"
        )
    first, reference = next(iter(found.items()))
    assert reference.items is not None
    for run, each in found.items():
        _check_same(source, (first, reference), (run, each))
    ids = sorted(reference.items, key=lambda key: (len(key), key))
    scale = _scale(source, found)
    items = {run: [scale * (each.items or {})[key] for key in ids] for run, each in found.items()}
    scores = {run: fmean(row) for run, row in items.items()}
    if not source.items:
        # A format without a score of its own has that of its items.
        return ValidationSet(scores, {}, [], transform)
    images = [
        f"image {reference.images[key]}" if key in reference.images else f"item {source.name} {key}"
        for key in ids
    ]
    return ValidationSet(scores, items, images if reference.images else [], transform)


def _check_numbers(source: Source, found: Mapping[str, Found]) -> None:
    """ValueError where a run was scored on another number of items than the first, as with --limit."""
    told = [(run, each) for run, each in found.items() if each.number is not None]
    for run, each in told:
        if each.number != told[0][1].number:
            first, reference = told[0]
            raise ValueError(
                f"{source}: expected scores of the same items in every run, got {reference.number} items in "
                f"run {first!r} ({reference.files[0]}) and {each.number} in {run!r} ({each.files[0]}); "
                "evaluate one of them again"
            )


def _check_same(source: Source, first: tuple[str, Found], other: tuple[str, Found]) -> None:
    (first_run, reference), (run, found) = first, other
    expected, got = reference.items or {}, found.items or {}
    if expected.keys() != got.keys():
        missing = [key for key in expected if key not in got]
        extra = [key for key in got if key not in expected]
        parts = (("without", missing), ("with", extra))
        words = [f"{how} {some(ids)} ({len(ids)} in all)" for how, ids in parts if ids]
        raise ValueError(
            f"{source}: expected the items of run {first_run!r} ({reference.files[-1]}) in run {run!r} as "
            f"well, got {found.files[-1]} {' and '.join(words)}"
        )
    if reference.images != found.images:
        differing = next(key for key in expected if reference.images.get(key) != found.images.get(key))
        raise ValueError(
            f"{source}: item {differing!r} is on image {reference.images.get(differing)!r} in run "
            f"{first_run!r} and on {found.images.get(differing)!r} in {run!r} ({found.files[-1]})"
        )


def _own_score(found: Found) -> float:
    assert found.score is not None, "a reader found neither items nor a score"
    return found.score


def _scale(source: Source, found: Mapping[str, Found]) -> float:
    """The factor of all runs that makes the items' means the tool's own scores: 1, or 100 for percent."""
    scales = [1.0, 100.0] if any(each.percent for each in found.values()) else [1.0]
    for run, each in found.items():
        if each.score is None:
            continue
        mean, score = fmean((each.items or {}).values()), each.score
        if not (scales := [scale for scale in scales if _close(score, scale * mean)]):
            raise ValueError(
                f"{source}, run {run!r}: {each.files[0]} gives the score {score}, the mean of the items in "
                f"{each.files[-1]} is {mean}; a score that is no mean over items needs items=no"
            )
    return scales[0]


def _close(score: float, mean: float) -> bool:
    """Whether the mean, rounded to the digits of the score (two at least), is the score."""
    shown = repr(score).partition(".")[2]
    digits = len(shown) if shown.isdecimal() else 16
    return abs(score - mean) <= 0.5 * 10.0 ** -max(2, digits) + 1e-9 * max(1.0, abs(score))


def _transform(source: Source, found: Mapping[str, Found]) -> str:
    said = {run: each.higher_is_better for run, each in found.items() if each.higher_is_better is not None}
    if len(set(said.values())) > 1:
        raise ValueError(
            f"{source}: metric {source.metric!r}: the runs' files differ on whether higher is better"
        )
    higher = next(iter(said.values()), None)
    if source.better is None and higher:
        return ""
    if source.better is None:
        known = (
            "the files say that lower is better"
            if higher is False
            else "no one has said whether higher is better"
        )
        raise ValueError(
            f"{source}: metric {source.metric!r}: {known}; add better=complement:BOUND (BOUND - m), "
            f"better=reciprocal (1/m){'' if higher is False else ' or better=higher'}"
        )
    if higher is not None and higher != (source.better == "higher"):
        raise ValueError(
            f"{source}: metric {source.metric!r}: better={source.better}, but the files say that "
            f"{'higher' if higher else 'lower'} is better"
        )
    return "" if source.better == "higher" else source.better
