"""How the score of each task grows with the share of its data (the paper's figure 1b)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from cotbal.estimate.few_seeds import percentiles, stretched
from cotbal.estimate.resample import SOURCES, drawn_means
from cotbal.estimate.transforms import checked_transforms, oriented

SCHEMA_VERSION = 1
LEVEL = 0.95
_DRAWS = 2000


@dataclass(frozen=True)
class Rungs:
    """Validation scores by share of a task's data.

    Attributes:
        shares: the shares by name, the smallest first, the last being all.
        metrics: the name of each task's score.
        transforms: how the score of a task is turned where lower is better, "" elsewhere.
        scores: of each task, by seed and share, as measured.
        items: likewise the scores by item, None where they are not kept.
        clusters: likewise a number per item, equal for those that belong together, None where none is told.
    """

    shares: Mapping[str, float]
    metrics: Mapping[str, str]
    transforms: Mapping[str, str]
    scores: dict[str, list[list[float]]] = field(default_factory=dict)
    items: dict[str, list[list[list[float] | None]]] = field(default_factory=dict)
    clusters: dict[str, list[list[list[int] | None]]] = field(default_factory=dict)


def shares_content(rungs: Rungs) -> dict[str, Any]:
    """Return the figure's numbers as JSON values: scores, and their ratio to the score on all data.

    Where lower is better the ratio is of the turned scores. Several seeds: the means.

    Raises:
        ValueError: no task has all its rungs.
    """
    if not rungs.scores:
        raise ValueError("no task has a score for every share of its data yet")
    tasks = {}
    for task, by_seed in rungs.scores.items():
        scores = torch.tensor(by_seed, dtype=torch.float64)
        drawn = _drawn(rungs, task, scores)
        ratios = _ratios(scores.mean(0), task, rungs.transforms[task])
        spans = None
        if drawn is not None:
            both, *alone = (_ratios(each, task, rungs.transforms[task]) for each in drawn)
            spans = _spans(both, alone, len(by_seed))
        tasks[task] = {
            "metric": rungs.metrics[task],
            "scores": scores.mean(0).tolist(),
            "relative": None if ratios is None else ratios.tolist(),
            "relative_intervals": spans,
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "shares",
        "title": "figure1b",
        "shares": dict(rungs.shares),
        "level": LEVEL,
        "seeds": len(next(iter(rungs.scores.values()))),
        "tasks": tasks,
        "missing": [task for task in rungs.metrics if task not in tasks],
    }


def _ratios(scores: Tensor, task: str, transform: str) -> Tensor | None:
    """V(share) / V(all) of (..., shares); None where V(all) is not above 0."""
    if transform:
        turned = checked_transforms({task: transform}, [task])
        try:
            scores = oriented(scores[..., None], (task,), turned)[..., 0]
        except ValueError:
            return None
    return scores / scores[..., -1:] if bool((scores[..., -1] > 0).all()) else None


def _drawn(rungs: Rungs, task: str, scores: Tensor) -> list[Tensor] | None:
    """(_DRAWS, shares) draws of the scores, of several seeds those over the seeds alone too.

    None where the items are not the scores', or others, or one.
    """
    items = rungs.items[task]
    clusters = [of_share for by_share in rungs.clusters.get(task, [[None]]) for of_share in by_share]
    lengths = {len(of_share or []) for by_share in items for of_share in by_share}
    if len(lengths) > 1 or 0 in lengths or any(each != clusters[0] for each in clusters):
        return None
    if lengths == {1} or len(set(clusters[0] or (0, 1))) < 2:
        return None
    stacked = torch.tensor(items, dtype=torch.float64)
    if not torch.allclose(stacked.mean(-1), scores, rtol=1e-6, atol=1e-6):
        return None
    seed = crc32(f"0 {task}".encode())
    return [
        drawn_means(stacked, task, draws=_DRAWS, seed=seed, over=over, clusters=clusters[0])
        for over in ([SOURCES, ("seeds",)] if len(stacked) > 1 else [SOURCES])
    ]


def _spans(ratios: Tensor | None, alone: list[Tensor | None], n_seeds: int) -> list[list[float]] | None:
    if ratios is None or any(of_seeds is None for of_seeds in alone):
        return None
    ratios = stretched(ratios, alone[0] if alone else None, n_seeds, LEVEL)
    ends: list[list[float]] = percentiles(ratios, LEVEL).T.tolist()
    return ends
