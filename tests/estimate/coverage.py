"""How often the intervals hold the truth: `python -m tests.estimate.coverage [--tables 2000]`.

Score tables are simulated from known true scores, with right-or-wrong items that are hard or easy for every
run alike. The number of items is chosen so that each task's own gain is z of its standard errors.
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from cotbal.estimate.formulas import (
    all2one_of,
    contribution_of,
    difficulty_of,
    one2all_of,
    weights_of,
)
from cotbal.estimate.scores import Scores
from cotbal.estimate.uncertainty import uncertainty

SIZES = (3, 7)
GAINS_IN_ERRORS = (1.7, 3.0, 4.0, 8.0)
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
        probes = mini + gain * share.fill_diagonal_(1.0)
        n_items = []
        for task in range(n_tasks):
            pair = torch.stack([mini[task], probes[task, task]])
            wide = _items(pair, 200_000, generator)
            spread = (wide[1] - wide[0]).std().item()
            n_items.append(max(20, round((z * spread / gain[task].item()) ** 2)))
        return cls(mini, probes, n_items)

    def table(self, generator: torch.Generator) -> Scores:
        """A table of scores measured on fresh items."""
        tasks = [f"t{index}" for index in range(len(self.mini))]
        items: dict[str, dict[str, Tensor]] = {run: {} for run in ("mini", *tasks)}
        for place, task in enumerate(tasks):
            truth = torch.cat([self.mini[place : place + 1], self.probes[:, place]])
            for run, row in zip(items, _items(truth, self.n_items[place], generator), strict=True):
                items[run][task] = row
        means = {run: [of_run[task].mean().item() for task in tasks] for run, of_run in items.items()}
        return Scores(tasks, means["mini"], [means[task] for task in tasks], items=items)


def _items(truth: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(R, n) of 0 and 1 whose expectations are `truth` (R,): a common hardness and noise of each run."""
    common = torch.randn(n, generator=generator, dtype=torch.float64)
    own = torch.randn(len(truth), n, generator=generator, dtype=torch.float64)
    strength = _LATENT**0.5 * common + (1 - _LATENT) ** 0.5 * own
    return (strength < torch.special.ndtri(truth)[:, None]).double()


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


def simulate(n_tasks: int, z: float, n_tables: int, draws: int = 600, seed: int = 0) -> dict[str, Tally]:
    """Coverage by quantity; "C unbounded" and "tables with weights" are shares of cells and of tables."""
    generator = torch.Generator().manual_seed(seed)
    tallies = {name: Tally() for name in QUANTITIES}
    off_diagonal = ~torch.eye(n_tasks, dtype=torch.bool)
    for index in range(n_tables):
        if index % 20 == 0:
            world = World.random(n_tasks, z, generator)
            C = contribution_of(world.mini, world.probes)
            D = difficulty_of(world.mini, world.probes.diagonal())
            truth = weights_of("cotbal", one2all_of(C), all2one_of(C), D, temperature=0.5, alpha=0.5)
        found = uncertainty(world.table(generator), draws=draws, seed=index)
        tallies["C"].add(found.contribution.contains(C)[off_diagonal])
        tallies["C unbounded"].add(~found.contribution.bounded[off_diagonal])
        tallies["V"].add(_within(found.mini, world.mini))
        tallies["V"].add(_within(found.probes, world.probes))
        tallies["D"].add(_within(found.difficulty, D))
        weights = found.rules["cotbal"]
        tallies["tables with weights"].add(torch.tensor(weights is not None))
        if weights is not None:
            tallies["weights"].add((weights.low <= truth) & (truth <= weights.high))
    return tallies


def _within(interval: Tensor, truth: Tensor) -> Tensor:
    return (interval[0] <= truth) & (truth <= interval[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000, help="simulated tables for each line")
    parser.add_argument("--draws", type=int, default=600, help="bootstrap draws for each table")
    chosen = parser.parse_args()
    print(f"share of 95 % intervals that hold the truth, {chosen.tables} tables a line")
    print(f"{'N':>2} {'z':>4}" + "".join(f"{name:>21}" for name in QUANTITIES))
    for n_tasks in SIZES:
        for z in GAINS_IN_ERRORS:
            tallies = simulate(n_tasks, z, chosen.tables, chosen.draws)
            line = "".join(f"{tallies[name].share:>21.3f}" for name in QUANTITIES)
            print(f"{n_tasks:>2} {z:>4}{line}", flush=True)


if __name__ == "__main__":
    main()
