"""How often the intervals hold the truth: `python -m tests.estimate.coverage [--tables 2000]`.

Score tables are simulated from known true scores, with right-or-wrong items that are hard or easy for every
run alike. The number of items is chosen so that each task's own gain is z of its standard errors over items.
With `--seeds` each moves every true score by noise of `--seed-noise` own gains, and the truth is the mean
over all seeds. `--world` says what is true: signals at random, alike for all tasks, with an outlier, or as
the authors published. `--shrinkage` prints the error of the weights without and with `shrink` instead.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cotbal.estimate.formulas import (
    all2one_of,
    contribution_of,
    difficulty_of,
    one2all_of,
    weights_of,
)
from cotbal.estimate.rules import estimate_weights
from cotbal.estimate.scores import Scores
from cotbal.estimate.shrinkage import shrunk_signals
from cotbal.estimate.uncertainty import uncertainty

SIZES = (3, 7)
GAINS_IN_ERRORS = (1.7, 3.0, 4.0, 8.0)
SIGNALS = Path(__file__).with_name("signals_7b.csv")
_LATENT = 0.6  # the share of an item's hardness that all runs see


@dataclass(frozen=True)
class World:
    """True scores, and the items that a table is drawn from.

    Attributes:
        mini: (N,) true V_j(mini).
        probes: (N, N) true V_j(i+mini).
        n_items: how many items each task is validated on.
    """

    mini: Tensor
    probes: Tensor
    n_items: list[int]

    @classmethod
    def random(cls, n_tasks: int, z: float, generator: torch.Generator) -> "World":
        mini = 0.25 + 0.3 * torch.rand(n_tasks, generator=generator, dtype=torch.float64)
        gain = 0.08 + 0.12 * torch.rand(n_tasks, generator=generator, dtype=torch.float64)
        share = 0.6 * torch.rand(n_tasks, n_tasks, generator=generator, dtype=torch.float64) - 0.1
        return cls.sized(mini, mini + gain * share.fill_diagonal_(1.0), z, generator)

    @classmethod
    def of(cls, C: Tensor, D: Tensor, z: float, generator: torch.Generator) -> "World":
        """Of these contributions (N, N) and difficulties (N,); every task's own probe scores .6."""
        mini = 0.6 * (1 - D)
        return cls.sized(mini, mini + 0.6 * D * C.clone().fill_diagonal_(1.0), z, generator)

    @classmethod
    def sized(cls, mini: Tensor, probes: Tensor, z: float, generator: torch.Generator) -> "World":
        n_items = []
        for task, gain in enumerate((probes.diagonal() - mini).tolist()):
            wide = _items(torch.stack([mini[task], probes[task, task]]), 200_000, generator)
            n_items.append(max(20, round((z * (wide[1] - wide[0]).std().item() / gain) ** 2)))
        return cls(mini, probes, n_items)

    def table(self, generator: torch.Generator) -> Scores:
        """A table of scores measured on fresh items."""
        return self.tables(generator)[0]

    def tables(self, generator: torch.Generator, n_seeds: int = 1, seed_noise: float = 0.0) -> list[Scores]:
        """One table per seed, measured on the same fresh items; `seed_noise` in own gains of a task."""
        tasks = [f"t{index}" for index in range(len(self.mini))]
        runs = ("mini", *tasks)
        seeds: list[dict[str, dict[str, Tensor]]] = [{run: {} for run in runs} for _ in range(n_seeds)]
        for place, task in enumerate(tasks):
            truth = torch.cat([self.mini[place : place + 1], self.probes[:, place]]).expand(n_seeds, -1)
            if seed_noise:
                gain = self.probes[place, place] - self.mini[place]
                moved = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
                truth = (truth + seed_noise * gain * moved).clamp(0.01, 0.99)
            rows = _items(truth.reshape(-1), self.n_items[place], generator).reshape(*truth.shape, -1)
            for items, of_seed in zip(seeds, rows, strict=True):
                for run, row in zip(runs, of_seed, strict=True):
                    items[run][task] = row
        return [_scores(tasks, items) for items in seeds]


def _scores(tasks: list[str], items: dict[str, dict[str, Tensor]]) -> Scores:
    means = {run: [of_run[task].mean().item() for task in tasks] for run, of_run in items.items()}
    return Scores(tasks, means["mini"], [means[task] for task in tasks], items=items)


def _items(truth: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(R, n) of 0 and 1 whose expectations are `truth` (R,): a common hardness and noise of each run."""
    common = torch.randn(n, generator=generator, dtype=torch.float64)
    own = torch.randn(len(truth), n, generator=generator, dtype=torch.float64)
    strength = _LATENT**0.5 * common + (1 - _LATENT) ** 0.5 * own
    return (strength < torch.special.ndtri(truth)[:, None]).double()


def _alike(n_tasks: int, z: float, generator: torch.Generator) -> World:
    C = torch.full((n_tasks, n_tasks), 0.2, dtype=torch.float64)
    return World.of(C, torch.full((n_tasks,), 0.4, dtype=torch.float64), z, generator)


def _outlier(n_tasks: int, z: float, generator: torch.Generator) -> World:
    """One task gives much to all others and is hard."""
    C = torch.full((n_tasks, n_tasks), 0.1, dtype=torch.float64)
    D = torch.full((n_tasks,), 0.3, dtype=torch.float64)
    C[0], D[0] = 0.6, 0.75
    return World.of(C, D, z, generator)


def _published(n_tasks: int, z: float, generator: torch.Generator) -> World:
    """The last tasks of the authors' 7B run, C the sum of what a task gives and another gets."""
    with SIGNALS.open(encoding="utf-8") as file:
        rows = [list(map(float, row[2:])) for row in list(csv.reader(file))[1:]][-n_tasks:]
    gives, gets, ratio = torch.tensor(rows, dtype=torch.float64).T
    return World.of(gives[:, None] + gets - gives.mean(), 1 - ratio, z, generator)


WORLDS = {"random": World.random, "alike": _alike, "outlier": _outlier, "published": _published}


@dataclass
class Tally:
    """Counts of intervals that hold the truth."""

    hits: float = 0.0
    total: float = 0.0

    def add(self, held: Tensor) -> None:
        self.hits += float(held.double().sum())
        self.total += held.numel()

    @property
    def share(self) -> float:
        return self.hits / self.total if self.total else float("nan")


QUANTITIES = ("C", "C unbounded", "V", "D", "weights", "tables with weights")


def simulate(
    n_tasks: int,
    z: float,
    n_tables: int,
    draws: int = 600,
    seed: int = 0,
    n_seeds: int = 1,
    seed_noise: float = 0.0,
    kind: str = "random",
) -> dict[str, Tally]:
    """Coverage by quantity; "C unbounded" and "tables with weights" are shares of cells and of tables."""
    generator = torch.Generator().manual_seed(seed)
    tallies = {name: Tally() for name in QUANTITIES}
    off_diagonal = ~torch.eye(n_tasks, dtype=torch.bool)
    for index in range(n_tables):
        if index % 20 == 0:
            world = WORLDS[kind](n_tasks, z, generator)
            C = contribution_of(world.mini, world.probes)
            D = difficulty_of(world.mini, world.probes.diagonal())
        found = uncertainty(world.tables(generator, n_seeds, seed_noise), draws=draws, seed=index)
        tallies["C"].add(found.contribution.contains(C)[off_diagonal])
        tallies["C unbounded"].add(~found.contribution.bounded[off_diagonal])
        tallies["V"].add(_within(found.mini, world.mini))
        tallies["V"].add(_within(found.probes, world.probes))
        tallies["D"].add(_within(found.difficulty, D))
        weights = found.rules["cotbal"]
        tallies["tables with weights"].add(torch.tensor(weights is not None))
        if weights is not None:
            truth = _weights(C, D)
            tallies["weights"].add((weights.low <= truth) & (truth <= weights.high))
    return tallies


def weight_errors(
    n_tasks: int, z: float, n_tables: int, draws: int = 600, seed: int = 0
) -> tuple[float, float]:
    """Root mean square errors of the weights: unidentified columns dropped, and shrunk."""
    generator = torch.Generator().manual_seed(seed)
    squares = {"drop": 0.0, "shrink": 0.0}
    used = 0
    while used < n_tables:
        world = World.random(n_tasks, z, generator)
        C, D = contribution_of(world.mini, world.probes), difficulty_of(world.mini, world.probes.diagonal())
        truth, scores = _weights(C, D), world.table(generator)
        try:
            plain = estimate_weights(scores, on_unidentified="drop")
        except ValueError:
            # No column is identified, or a score is 0: there are no weights to compare with.
            continue
        used += 1
        signals = shrunk_signals([scores], draws=draws)
        shrunk = _weights(
            signals.contributions(contribution_of(scores.mini, scores.probes)),
            signals.difficulties(difficulty_of(scores.mini, scores.probes.diagonal())),
        )
        of_plain = torch.tensor(list(plain.values()), dtype=torch.float64)
        squares["drop"] += ((of_plain - truth) ** 2).mean().item()
        squares["shrink"] += ((shrunk - truth) ** 2).mean().item()
    drop, shrink = ((total / n_tables) ** 0.5 for total in squares.values())
    return drop, shrink


def _weights(C: Tensor, D: Tensor) -> Tensor:
    return weights_of("cotbal", one2all_of(C), all2one_of(C), D, temperature=0.5, alpha=0.5)


def _within(interval: Tensor, truth: Tensor) -> Tensor:
    return (interval[0] <= truth) & (truth <= interval[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000, help="simulated tables for each line")
    parser.add_argument("--draws", type=int, default=600, help="bootstrap draws for each table")
    parser.add_argument("--seeds", type=int, default=1, help="training seeds of each table")
    parser.add_argument("--seed-noise", type=float, default=0.0, help="their noise in own gains of a task")
    parser.add_argument("--world", choices=WORLDS, default="random", help="what is true")
    parser.add_argument("--shrinkage", action="store_true", help="the error of weights with and without it")
    chosen = parser.parse_args()
    if chosen.shrinkage:
        _print_shrinkage(chosen.tables, chosen.draws)
    else:
        _print_coverage(chosen)


def _print_coverage(chosen: argparse.Namespace) -> None:
    noise = f"{chosen.seeds} seeds of noise {chosen.seed_noise:g}" if chosen.seeds > 1 else "items alone"
    print(f"share of 95 % intervals that hold the truth, {chosen.tables} tables a line, {noise}")
    print(f"{'N':>2} {'z':>4}" + "".join(f"{name:>21}" for name in QUANTITIES))
    for n_tasks in SIZES:
        for z in GAINS_IN_ERRORS:
            tallies = simulate(
                n_tasks,
                z,
                chosen.tables,
                chosen.draws,
                n_seeds=chosen.seeds,
                seed_noise=chosen.seed_noise,
                kind=chosen.world,
            )
            line = "".join(f"{tallies[name].share:>21.3f}" for name in QUANTITIES)
            print(f"{n_tasks:>2} {z:>4}{line}", flush=True)


def _print_shrinkage(n_tables: int, draws: int) -> None:
    print(f"root mean square error of the weights, {n_tables} tables a line")
    print(f"{'N':>2} {'z':>4}{'dropped':>10}{'shrunk':>10}")
    for n_tasks in SIZES:
        for z in GAINS_IN_ERRORS:
            dropped, shrunk = weight_errors(n_tasks, z, n_tables, draws)
            print(f"{n_tasks:>2} {z:>4}{dropped:>10.3f}{shrunk:>10.3f}", flush=True)


if __name__ == "__main__":
    main()
