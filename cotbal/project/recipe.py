"""The runs of a project: trainings and evaluations, each a command and all that determines its result."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cotbal.estimate.recipe import FULL, MINI, MODES, Recipe
from cotbal.project.config import Project
from cotbal.project.data import SECOND, Data, DataFile, Part, fingerprint
from cotbal.project.template import LATE, fill
from cotbal.runs.plan import Plan, Results
from cotbal.runs.store import RunSpec
from cotbal.weights import TaskWeights

if TYPE_CHECKING:
    from cotbal.balancing import Weighting

TRAIN = "cotbal.project.job:train"
EVALUATE = "cotbal.project.job:evaluate"
# A model that exists: nothing to run.
GIVEN = "given"


@dataclass(frozen=True)
class ProjectRecipe(Recipe):
    """The runs of one seed of a project.

    Attributes:
        project: the file.
        data: its data.
        seed: of the mini subsets and for the commands.
    """

    project: Project
    data: Data
    seed: int

    @property
    def tasks(self) -> Sequence[str]:
        """The weighted tasks."""
        return self.project.weighted

    @property
    def fixed(self) -> Mapping[str, float]:
        """The tasks of fixed weight."""
        return self.project.fixed

    @property
    def transforms(self) -> Mapping[str, str]:
        """Of the tasks where lower is better."""
        tasks = self.project.tasks.items()
        return {name: task.transform for name, task in tasks if task.transform is not None}

    def training(self, name: str, data: Mapping[str, str]) -> RunSpec:
        """A run of the estimate."""
        command = self.project.train.of_estimate
        return self._training(name, self._parts(data), command, matched_to=self._matched_to(data))

    def single(self, task: str) -> RunSpec:
        """The final model of a task alone; the run of the precise difficulty if the command is the same."""
        alone, command = self.alone(task, FULL), self.project.train.command
        if command == self.project.train.of_estimate:
            return alone
        return self._training(f"single {task}", self._parts({task: FULL}), command)

    def equal(self) -> RunSpec:
        """The model of equal weights that the file names."""
        folder = self.project.folder / (self.project.equal_model or "")
        settings = {"data": [{"task": task} for task in self.project.tasks], "model": fingerprint(folder)}
        context = {"model": os.path.abspath(folder), "model_files": fingerprint(folder, SECOND)}
        return RunSpec(self._named("equal"), GIVEN, settings, 0, context=context)

    def final(self, rule: str, weights: Mapping[str, float]) -> RunSpec:
        """The final run under a rule's weights."""
        return self.mixture(rule, TaskWeights(dict(weights)))

    def mixture(self, method: str, weights: TaskWeights | Weighting) -> RunSpec:
        """The final run of a method: all data, under weights or under a rule that changes them."""
        parts = [self.data.full[task] for task in (*self.tasks, *self.fixed)]
        return self._training(f"final {method}", parts, self.project.train.command, weights)

    def tests(self, run: RunSpec) -> dict[tuple[str, str], RunSpec]:
        """The evaluations of a final model by task and test set.

        Those of the validation files where a task has no test files.
        """
        found = {}
        for task in self._scored_tasks(run):
            for of_set in self.project.tasks[task].tests or [""]:
                found[task, of_set] = self._test(run, task, of_set)
        return found

    def scored_by(self, run: RunSpec) -> tuple[str, ...]:
        """The evaluations of a training."""
        return tuple(spec.name for spec in self.evaluations(run))

    def validation_scores(self, run: RunSpec, results: Results) -> dict[str, float]:
        """The scores that the evaluations of a training wrote."""
        specs = self.evaluations(run)
        return {spec.settings["task"]: results[spec.name]["score"] for spec in specs}

    def validation_items(self, run: RunSpec, results: Results) -> dict[str, list[float]]:
        """The items that they wrote, of the tasks whose evaluation wrote some."""
        found = {spec.settings["task"]: results[spec.name]["items"] for spec in self.evaluations(run)}
        return {task: items for task, items in found.items() if items is not None}

    def validation_clusters(self, run: RunSpec, results: Results) -> dict[str, list[int]]:
        """Which of them belong together, of the tasks whose evaluation told it."""
        found = {spec.settings["task"]: results[spec.name].get("clusters") for spec in self.evaluations(run)}
        return {task: numbers for task, numbers in found.items() if numbers is not None}

    def evaluations(self, run: RunSpec) -> list[RunSpec]:
        """The evaluations of a training: on every weighted task, or on the only one that it has."""
        tasks = self._scored_tasks(run)
        return [self._evaluation(run, task, self.project.evaluation(task, probe=True)) for task in tasks]

    def _scored_tasks(self, run: RunSpec) -> Sequence[str]:
        trained = [part["task"] for part in run.settings["data"]]
        return trained if len(trained) == 1 else self.tasks

    def _parts(self, data: Mapping[str, str]) -> list[Part]:
        subsets, full = {MINI: self.data.mini, **self.data.shares}, self.data.full
        return [
            subsets[share][self.seed, task] if share in subsets else full[task]
            for task, share in data.items()
        ]

    def _matched_to(self, data: Mapping[str, str]) -> float | None:
        """The samples that the mini run sees instead of its own, where the file asks for it."""
        if not self.project.step_matched or data != dict.fromkeys(self.tasks, MINI):
            return None
        share = MODES[self.project.mode].share or FULL
        probes = [_samples(self._parts({**data, task: share})) for task in self.tasks]
        return sum(probes) / len(probes)

    def _training(
        self,
        run: str,
        parts: Sequence[Part],
        command: str,
        weights: TaskWeights | Weighting | None = None,
        matched_to: float | None = None,
    ) -> RunSpec:
        project, samples = self.project, _samples(parts)
        work = math.ceil((samples if matched_to is None else matched_to) * project.train.epochs)
        steps = None if project.train.batch_size is None else math.ceil(work / project.train.batch_size)
        epochs = project.train.epochs
        epochs = int(epochs) if epochs.is_integer() else epochs
        known = self._known(run) | {"steps": steps, "samples": samples, "epochs": epochs}
        settings = {
            "command": fill(command, known, LATE),
            "format": project.train.format,
            "data": [{"task": p.task, "share": p.share, "sha256": list(p.sha256)} for p in parts],
            **_weights_settings(weights, [part.task for part in parts]),
        }
        context = {
            **self._context(),
            "parts": [{"task": part.task, "files": list(part.files)} for part in parts],
            "resume": project.train.resume,
            "samples": samples,
            "steps": steps,
            "work": work,
        }
        if isinstance(weights, TaskWeights):
            context["weights"] = asdict(weights)
        return RunSpec(self._named(run), TRAIN, settings, work, context=context)

    def _test(self, run: RunSpec, task: str, of_set: str) -> RunSpec:
        command, file = self.project.evaluation(task), self.data.test.get((task, of_set))
        if file is None:
            return self._evaluation(run, task, command)
        where = f"{task}, {of_set}" if of_set else task
        return self._scoring(f"test {self._bare(run.name)} on {where}", run, task, command, file)

    def _evaluation(self, run: RunSpec, task: str, command: str) -> RunSpec:
        name = f"evaluate {self._bare(run.name)} on {task}"
        return self._scoring(name, run, task, command, self.data.validation.get(task))

    def _scoring(self, name: str, run: RunSpec, task: str, command: str, file: DataFile | None) -> RunSpec:
        metric = self.project.tasks[task].metric
        known = self._known(self._bare(run.name)) | {"task": task, "metric": metric}
        settings = {
            "command": fill(command, known, LATE),
            "task": task,
            "data": None if file is None else file.sha256,
        }
        given = run.function == GIVEN
        if given:
            settings["model"] = run.settings["model"]
        items = None if file is None else file.records
        context = {**self._context(), "file": None if file is None else file.path, "items": items}
        context["resume"] = self.project.evaluate.resume
        context["metric"] = metric
        context |= run.context if given else {}
        needs = () if given else (run.name,)
        # What is not counted counts as one.
        work = self._evaluation_work(1 if items is None else items)
        return RunSpec(self._named(name), EVALUATE, settings, work, needs, context)

    def _evaluation_work(self, items: int) -> int:
        """An evaluation in samples of training: the share done and the order of runs are in one unit."""
        train, evaluate = self.project.train.samples_per_gpu_hour, self.project.evaluate.items_per_gpu_hour
        return max(1, round(items * train / evaluate)) if train and evaluate else items

    def _known(self, run: str) -> dict[str, Any]:
        return {
            "base_model": self.project.base_model,
            "seed": self.seed,
            "gpus": self.project.resources.gpus_of_a_command,
            "run": run,
        }

    def _context(self) -> dict[str, Any]:
        return {
            "folder": str(self.project.folder),
            "out": os.path.abspath(self.project.out),
            "python_path": os.environ.get("PYTHONPATH"),
        }

    def _named(self, run: str) -> str:
        return f"{self._prefix}{run}"

    def _bare(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    @property
    def _prefix(self) -> str:
        return f"seed {self.seed}/" if len(self.project.seeds) > 1 else ""


def _weights_settings(weights: TaskWeights | Weighting | None, tasks: Sequence[str]) -> dict[str, Any]:
    """What {weights} will hold, as the settings of a run; constant weights without where they are from."""
    if weights is None or isinstance(weights, TaskWeights):
        return {"weights": dict(weights or dict.fromkeys(tasks, 1.0))}
    from cotbal.balancing import rule_content

    return {"rule": rule_content(weights, tasks)}


def _samples(parts: Sequence[Part]) -> int:
    return sum(part.records for part in parts)


def recipes(project: Project, data: Data) -> dict[int, ProjectRecipe]:
    """The recipe of each seed."""
    return {seed: ProjectRecipe(project, data, seed) for seed in project.seeds}


def plan_of(project: Project, data: Data) -> Plan:
    """Every training of the estimate and its evaluations.

    The first seed's mini run starts first, with its evaluations: it is short and calls every command.
    """
    specs: list[RunSpec] = []
    first: list[str] = []
    for recipe in recipes(project, data).values():
        for run in recipe.estimation_runs(project.mode, project.precise):
            specs += [*([] if run.function == GIVEN else [run]), *recipe.evaluations(run)]
            first = first or [spec.name for spec in specs]
    return Plan(specs, first)
