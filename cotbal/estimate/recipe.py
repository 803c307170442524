"""The runs of Algorithm 1: the mini run, the probe runs, and what each mode has instead of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotbal.runs.plan import Results
from cotbal.runs.store import RunSpec

if TYPE_CHECKING:
    from cotbal.estimate.clusters import Clusters

MINI, QUARTER, HALF, FULL = "mini", "1/4", "1/2", "full"
_PROBE = {QUARTER: "quarter probe", HALF: "half probe", FULL: "probe"}


@dataclass(frozen=True)
class Mode:
    """How an estimate saves work.

    Attributes:
        share: of each task in its probe, None without probes.
        equal: whether the difficulty is told by the equally weighted model.
    """

    share: str | None
    equal: bool


MODES = {
    "full": Mode(FULL, equal=False),
    "cheap": Mode(QUARTER, equal=True),
    "no-probes": Mode(None, equal=True),
}


class Recipe(ABC):
    """The trainings of Algorithm 1: what each of them trains on is said here, how it is done by the recipe.

    Every run starts from the same base model with the same settings; only data and weights differ.
    """

    @property
    @abstractmethod
    def tasks(self) -> Sequence[str]:
        """The weighted tasks, in order."""

    @property
    @abstractmethod
    def fixed(self) -> Mapping[str, float]:
        """Tasks that take no part in the estimate, with their weight in the final run."""

    @property
    def transforms(self) -> Mapping[str, str]:
        """How the scores of tasks where lower is better are turned, as of `Scores`."""
        return {}

    def mini(self) -> RunSpec:
        """The run on the mini subsets of all weighted tasks."""
        return self.training("mini", dict.fromkeys(self.tasks, MINI))

    def probe(self, task: str, share: str = FULL) -> RunSpec:
        """The run on the full set or a share of `task` and the mini subsets of the other weighted tasks."""
        return self.training(f"{_PROBE[share]} {task}", {**dict.fromkeys(self.tasks, MINI), task: share})

    def equal(self) -> RunSpec:
        """The equally weighted model of all data, or what stands for one that exists."""
        return self.training("equal", dict.fromkeys((*self.tasks, *self.fixed), FULL))

    def alone(self, task: str, share: str) -> RunSpec:
        """The run on the "mini" or "full" set of `task` and nothing else (the precise difficulty)."""
        return self.training(f"alone {share} {task}", {task: share})

    def probes(self, mode: str = "full") -> dict[str, RunSpec]:
        """The probe runs of a mode by task; none where it has none."""
        share = MODES[mode].share
        return {} if share is None else {task: self.probe(task, share) for task in self.tasks}

    def estimation_runs(self, mode: str = "full", precise: bool = False) -> list[RunSpec]:
        """The mini run, the N probe runs and, for the precise difficulty, 2 N runs on one task each.

        Other modes have fewer, and the equally weighted model.
        They wait for nothing but what the recipe says.

        Args:
            mode: a name in `MODES`.
            precise: whether the difficulty is taken from runs on each task alone.
        """
        runs = [self.mini(), *self.probes(mode).values()]
        if MODES[mode].equal:
            runs.append(self.equal())
        shares = (MINI, FULL) if precise else ()
        return [*runs, *(self.alone(task, share) for share in shares for task in self.tasks)]

    @abstractmethod
    def training(self, name: str, data: Mapping[str, str]) -> RunSpec:
        """A run of the estimate, all tasks of weight 1.

        Args:
            name: of the run.
            data: the tasks that it trains on, each with its share: "mini", "full" or "1/4".
        """

    @abstractmethod
    def final(self, rule: str, weights: Mapping[str, float]) -> RunSpec:
        """The run on all data under these weights; its name and steps do not depend on the weights."""

    @abstractmethod
    def scored_by(self, run: RunSpec) -> tuple[str, ...]:
        """Names of the runs whose results hold the validation scores of this run's model, as itself may."""

    @abstractmethod
    def validation_scores(self, run: RunSpec, results: Results) -> Mapping[str, float]:
        """V_j, as measured, of the model of a run: of every weighted task, or of its only one.

        Args:
            run: the mini run, a probe or a run on one task alone.
            results: those of `scored_by(run)` are among them.
        """

    def validation_clusters(self, run: RunSpec, results: Results) -> Clusters:
        """Which items of each task belong together, such as the questions on one image."""
        return {}

    @abstractmethod
    def validation_items(self, run: RunSpec, results: Results) -> Mapping[str, Sequence[float]] | None:
        """The per-item scores behind V_j of the tasks that have them; None where none are kept."""
