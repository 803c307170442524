"""The demo's runs: Algorithm 1 on the digit world, with single-task and equally weighted models beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotbal.demo.profiles import FULL, PROFILES, Profile, steps
from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.recipe import Recipe
from cotbal.runs.plan import LateSpec, Plan, Results
from cotbal.runs.store import RunSpec

FUNCTION = "cotbal.demo.job:run"
# Names of the compared methods; each final run under a rule's weights is one.
RULE_METHODS = {
    "cotbal": "CoTBal",
    "one2all": "CoTBal (one2all)",
    "all2one": "CoTBal (all2one)",
    "contribution": "CoTBal (contribution)",
    "difficulty": "CoTBal (difficulty)",
}
STL, EW, TLA = "STL", "EW", "TLA"


@dataclass(frozen=True)
class DemoRecipe(Recipe):
    """The runs of one seed.

    Attributes:
        profile: name of the profile.
        seed: of data order, initial weights and mini subsets.
        device: "cpu" or "cuda".
        prefix: what the runs' names begin with.
    """

    profile: str
    seed: int
    device: str = "cpu"
    prefix: str = ""

    @property
    def _sizes(self) -> Profile:
        return PROFILES[self.profile]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The weighted tasks, in order."""
        return tuple(self._sizes.tasks)

    @property
    def fixed(self) -> dict[str, float]:
        """The tasks of fixed weight."""
        return dict(self._sizes.fixed)

    def base(self) -> RunSpec | None:
        """The base model that every other run starts from; None where the profile has none."""
        if not self._sizes.has_base:
            return None
        settings = {"kind": "base", "profile": self.profile, "seed": self.seed, "device": self.device}
        return RunSpec(f"{self.prefix}base", FUNCTION, settings, steps(settings))

    def training(self, name: str, data: Mapping[str, str]) -> RunSpec:
        """A run of the estimate, validated on every weighted task, or on the only one that it has."""
        return self._train(name, data, "validation", tuple(data) if len(data) == 1 else self.tasks)

    def single(self, task: str) -> RunSpec:
        """The single-task model of a task, tested on it alone."""
        return self._train(f"{STL} {task}", {task: FULL}, "test", (task,))

    def final(self, rule: str, weights: Mapping[str, float]) -> RunSpec:
        """The final run under a rule's weights, tested on every task."""
        return self.mixture(RULE_METHODS[rule], weights)

    def mixture(
        self, method: str, weights: Mapping[str, float] | None = None, weighting: str = "static"
    ) -> RunSpec:
        """A run on all data, tested on every task; without weights every token counts the same."""
        tasks = (*self.tasks, *self.fixed)
        return self._train(method, dict.fromkeys(tasks, FULL), "test", tasks, weights, weighting)

    def scored_by(self, run: RunSpec) -> tuple[str, ...]:
        """A run scores its own model."""
        return (run.name,)

    def validation_scores(self, run: RunSpec, results: Results) -> dict[str, float]:
        """V_j of the model of a run, for the tasks that it was validated on."""
        scores = results[run.name]["scores"]
        return {task: scores[task][self._sizes.metrics[task]] for task in run.settings["evaluate"]}

    def validation_items(self, run: RunSpec, results: Results) -> dict[str, list[float]]:
        """The per-item scores behind V_j."""
        items = results[run.name]["items"]
        return {task: items[task][self._sizes.metrics[task]] for task in run.settings["evaluate"]}

    def _train(
        self,
        name: str,
        data: Mapping[str, str],
        split: str,
        evaluate: Sequence[str],
        weights: Mapping[str, float] | None = None,
        weighting: str = "static",
    ) -> RunSpec:
        settings = {
            "kind": "train",
            "profile": self.profile,
            "seed": self.seed,
            "data": dict(data),
            "weights": None if weights is None else dict(weights),
            "weighting": weighting,
            "split": split,
            "evaluate": list(evaluate),
            "device": self.device,
        }
        base = self.base()
        needs = () if base is None else (base.name,)
        return RunSpec(f"{self.prefix}{name}", FUNCTION, settings, steps(settings), needs)


@dataclass(frozen=True)
class Demo:
    """Everything that `cotbal demo` runs.

    Attributes:
        profile: name of the profile.
        seeds: one estimate and one set of models for each.
        device: "cpu" or "cuda".
        rules: the rules whose weights get a final run, of `RULE_METHODS`; "cotbal" among them.
        tla: whether to train the TLA comparison too.
    """

    profile: str = "quick"
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"
    rules: tuple[str, ...] = ("cotbal",)
    tla: bool = False

    @classmethod
    def full(cls, profile: str = "full", seeds: tuple[int, ...] = (0, 1, 2), device: str = "cpu") -> Demo:
        """Three seeds, TLA and the weight ablations."""
        return cls(profile, seeds, device, tuple(RULE_METHODS), tla=True)

    def recipe(self, seed: int) -> DemoRecipe:
        """The runs of a seed; their names tell the seed where there are several."""
        return DemoRecipe(self.profile, seed, self.device, f"seed {seed}/" if len(self.seeds) > 1 else "")

    def algorithm(self, seed: int) -> Algorithm1:
        """Algorithm 1 for a seed; a task whose contribution cannot be told is dropped and named."""
        return Algorithm1(self.recipe(seed), on_unidentified="drop")

    @property
    def methods(self) -> tuple[str, ...]:
        """The compared methods but STL, in the order of tables."""
        return (EW, *((TLA,) if self.tla else ()), *(RULE_METHODS[rule] for rule in self.rules))

    def plan(self) -> Plan:
        """All runs of all seeds; the final runs under estimated weights come before their equals."""
        return Plan([spec for seed in self.seeds for spec in self._runs(seed)])

    def _runs(self, seed: int) -> list[RunSpec | LateSpec]:
        recipe, algorithm = self.recipe(seed), self.algorithm(seed)
        base = recipe.base()
        comparisons = [recipe.mixture(EW)]
        if self.tla:
            comparisons.append(recipe.mixture(TLA, weighting="tla"))
        return [
            *([] if base is None else [base]),
            *algorithm.estimation_runs(),
            *(algorithm.final_run(rule) for rule in self.rules),
            *comparisons,
            *(recipe.single(task) for task in recipe.tasks),
        ]
