"""Bootstrap of a score table: items drawn again, the same ones in every run, and training seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from cotbal.estimate.clusters import Numbers
from cotbal.estimate.items_json import ITEM_TOLERANCE
from cotbal.estimate.score_csv import EQUAL, MINI
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import ScoreTable, common_clusters, common_strata
from cotbal.estimate.strata import Part, balanced, parts
from cotbal.estimate.transforms import oriented_draws

SOURCES = ("items", "seeds")
# Drawn at a time: (draws, items) counts of 8 bytes each.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Draws:
    """K resamples of a score table, higher is better; NaN where a reciprocal has no value.

    Attributes:
        mini: (K, N) of V_j(mini).
        probes: (K, N, N) of V_j(i+mini).
        equal: (K, N) of the equally weighted model, where the table has it.
    """

    mini: Tensor
    probes: Tensor
    equal: Tensor | None = None


def resample(
    tables: Sequence[Scores],
    *,
    draws: int = 2000,
    seed: int = 0,
    over: Sequence[str] = SOURCES,
) -> Draws:
    """Draw the table again and again: items with replacement, the same ones in every run; seeds likewise.

    Items of one cluster (questions on an image) are drawn together, those of each validation set within it.

    Args:
        tables: one score table per training seed, with the items of every run, the same items in each.
        draws: K.
        seed: of the random numbers.
        over: "items", "seeds" or both: which noise is in the draws. One seed has none of its own.

    Raises:
        ValueError: no items, other items in another table, or a score that is not the mean of its items.
    """
    if unknown := set(over) - set(SOURCES):
        raise ValueError(f"over: expected of {', '.join(SOURCES)}, got {', '.join(sorted(unknown))}")
    tasks = tables[0].tasks
    clusters, strata = common_clusters(tables, tasks), common_strata(tables, tasks)
    columns = [
        drawn_means(
            stacked_items(tables, task),
            task,
            draws=draws,
            seed=seed_of(seed, task),
            over=over,
            clusters=clusters.get(task),
            strata=strata.get(task),
        )
        for task in tasks
    ]
    # One draw of the seeds is the same for every task: a model is good or bad at all of them.
    table = torch.stack(columns, dim=-1)
    if "seeds" in over and equal_is_one_training(tables):
        runs = torch.stack([torch.cat([each.mini[None], each.probes]) for each in tables])
        table[:, -1] += between_trainings(runs, draws)
    table = oriented_draws(table, tasks, tables[0].transforms)
    n_tasks = len(tasks)
    equal = None if tables[0].equal is None else table[:, n_tasks + 1]
    return Draws(table[:, 0], table[:, 1 : n_tasks + 1], equal)


def equal_is_one_training(tables: Sequence[Scores]) -> bool:
    """Whether the equally weighted model of several seeds is one: item by item the same scores under all."""
    first = tables[0]
    return (
        len(tables) > 1
        and first.equal is not None
        and all(
            torch.equal(table.items[EQUAL][task], first.items[EQUAL][task])
            for table in tables[1:]
            for task in first.tasks
        )
    )


def between_trainings(runs: Tensor, draws: int) -> Tensor:
    """(K, N): noise of one training on each of N tasks, as R runs (S, R, N) show it over S >= 2 seeds."""
    off = (runs - runs.mean(0)).flatten(0, 1) / ((len(runs) - 1) * runs.shape[1]) ** 0.5
    generator = torch.Generator().manual_seed(1)
    return torch.randn(draws, len(off), generator=generator, dtype=torch.float64) @ off


def without_difficulty(tasks: Sequence[str], drawn: Tensor) -> dict[str, str]:
    """The tasks whose D is NaN in one of the draws (K, N), each with the reason in words."""
    return {
        task: f"the full score of task {task!r}, by which its difficulty is divided, is 0 in some draws; "
        "give it more validation items, or another metric"
        for task, defined in zip(tasks, drawn.isfinite().all(0).tolist(), strict=True)
        if not defined
    }


def seed_of(seed: int, task: str) -> int:
    """The seed of a task by its name: what it draws does not hang on the order of the tasks."""
    return crc32(f"{seed} {task}".encode())


def seed_shares(n_seeds: int, draws: int, over: Sequence[str]) -> Tensor:
    """(K, S) float64: what each seed counts in each draw; the rows sum to 1.

    The mean by them is normal, with the standard error that the seeds show.
    """
    even = torch.full((draws, n_seeds), 1.0 / n_seeds, dtype=torch.float64)
    if "seeds" not in over or n_seeds == 1:
        return even
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, n_seeds, generator=generator, dtype=torch.float64)
    return even + (noise - noise.mean(1, keepdim=True)) / (n_seeds * (n_seeds - 1)) ** 0.5


def tasks_without_items(tables: Sequence[ScoreTable]) -> list[str]:
    """Return the tasks of which a run lacks its items; there are intervals only where there is none."""
    return [
        task
        for task in tables[0].tasks
        if any(task not in table.items.get(run, {}) for table in tables for run in _runs(table))
    ]


def _runs(table: ScoreTable) -> tuple[str, ...]:
    probes = table.tasks if isinstance(table, Scores) else ()
    return (MINI, *probes, *(() if table.equal is None else (EQUAL,)))


def stacked_items(tables: Sequence[Scores], task: str) -> Tensor:
    """The items (S, N+1, n) of a task: by seed, by run (mini first, the equally weighted model last).

    Those of several validation sets are scaled so that their mean is the score, the plain mean over the sets.

    Raises:
        ValueError: a run without items, unequal numbers of them, or a score that is not their mean.
    """
    rows = []
    for table in tables:
        runs = _runs(table)
        for run in runs:
            if task not in table.items.get(run, {}):
                raise ValueError(
                    f"items: expected the per-item scores of task {task!r} in run {run!r}, got none; "
                    "intervals and shrink need them for every run and task, --items in the command line"
                )
        items = balanced(torch.stack([table.items[run][task] for run in runs]), table.strata.get(task))
        place = table.tasks.index(task)
        equal = table.mini[:0] if table.equal is None else table.equal[place : place + 1]
        scores = torch.cat([table.mini[place : place + 1], table.probes[:, place], equal])
        off = (items.mean(1) - scores).abs().max().item()
        if off > ITEM_TOLERANCE * max(1.0, scores.abs().max().item()):
            raise ValueError(
                f"items: expected the mean of task {task!r}'s items to be its score, they are {off:.3g} "
                "apart; give the items that the score is the mean of, and strata where it is the plain mean "
                "over several validation sets"
            )
        rows.append(items)
    if len({each.shape for each in rows}) > 1:
        raise ValueError(f"items: expected the same items of task {task!r} under every seed")
    return torch.stack(rows)


def drawn_means(
    items: Tensor,
    name: str,
    *,
    draws: int,
    seed: int,
    over: Sequence[str] = SOURCES,
    clusters: Numbers | None = None,
    strata: Numbers | None = None,
) -> Tensor:
    """(K, R): the mean score of R models in every draw, the same items and seeds drawn for all of them.

    Args:
        items: (S, R, n), by seed and model, their mean being the score.
        name: of what was scored, for messages.
        draws: K.
        seed: of the random numbers of the items; those of the seeds are the same in every call.
        over: "items", "seeds" or both: which noise is in the draws.
        clusters: (n,) a number per item, as in `resample`.
        strata: (n,) likewise, of which validation set each is; within each they are drawn by themselves.
    """
    shares = seed_shares(len(items), draws, over)
    if "items" not in over:
        return torch.einsum("ks,sr->kr", shares, items.mean(-1))
    generator = torch.Generator().manual_seed(seed)
    found = parts(items, name, clusters, strata)
    # Of each set one item less is drawn than it has: the noise of a mean of n is s^2 / n then, of few too.
    less = int(len(found) > 1)
    return torch.stack([_drawn(part, name, shares, generator, less) for part in found]).sum(0)


def _drawn(part: Part, name: str, shares: Tensor, generator: torch.Generator, less: int) -> Tensor:
    """(K, R): what a part has of the mean score in every draw."""
    sums, sizes = part
    n_groups, draws = len(sizes), len(shares)
    if n_groups < 2:
        raise ValueError(
            f"items: expected at least 2 items of {name!r}, and 2 clusters where they are given, got 1; one "
            "shows nothing of its noise, so leave it out"
        )
    columns = []
    for first in range(0, draws, max(1, _CHUNK // n_groups)):
        chunk = shares[first : first + max(1, _CHUNK // n_groups)]
        counts = _counts(len(chunk), n_groups, n_groups - less, generator).double()
        means = torch.einsum("kg,srg->ksr", counts, sums) / (counts @ sizes)[:, None, None]
        columns.append(torch.einsum("ks,ksr->kr", chunk, means))
    return torch.cat(columns)


def _counts(draws: int, n: int, times: int, generator: torch.Generator) -> Tensor:
    """(K, n) int64: how often each of n was drawn in so many draws with replacement."""
    drawn = torch.randint(n, (draws, times), generator=generator)
    return torch.zeros(draws, n, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
