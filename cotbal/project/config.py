"""The YAML file of an estimate as a model; an unknown key is an error.

    output: estimate                  # the folder for everything that is written
    base_model: models/base           # a folder or a name, for the commands
    tasks:
      VQAv2:
        train: data/vqav2.json        # JSON array or JSONL, one file or several
        validation: data/vqav2_val.jsonl
      ShareGPT: {train: data/sharegpt.json, weight: 1.0}     # takes no part in the estimate
    train: {command: "python train.py --data {data} --output {output} --seed {seed}"}
    evaluate: {command: "python score.py --model {model} --questions {data} --task {task} --out {scores}"}

Paths are relative to the file's folder, in which the commands run; `~` is the home folder.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from cotbal.estimate.rule_names import RULES
from cotbal.files import is_utf8, writable
from cotbal.project.parts import Evaluate, Task, Train, trained_files
from cotbal.project.resources import Resources
from cotbal.project.strict import PathText, Positive, Strict, Text
from cotbal.project.template import placeholders
from cotbal.project.yaml_file import load_yaml
from cotbal.tasks import check_estimated

# A quarter is then four mini subsets. With two, C was noise where it was tried.
LARGEST_MINI_OF_CHEAP = Fraction(1, 16)
BUDGET_UNITS = ("GPU-hours", "samples")


def _budget(text: str) -> str:
    amount, _, unit = text.partition(" ")
    try:
        good = unit in BUDGET_UNITS and 0 < float(amount) < math.inf
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"expected a number of {' or '.join(BUDGET_UNITS)} such as '80 GPU-hours', got {text!r}"
        )
    return text


class Project(Strict):
    """An estimate of task weights as its file states it.

    Attributes:
        schema_version: of this file.
        output: the folder for everything that is written.
        base_model: the model that every run starts from, for {base_model}.
        tasks: by name; at least two without a fixed weight.
        train: how a model is trained.
        evaluate: how a model is scored on one task.
        mini_ratio: share of the samples of each task in its mini subset, a number or a fraction.
        seeds: one estimate each; of the mini subsets, and {seed} for the commands.
        rule: whose weights are written.
        temperature: T.
        alpha: share of the contribution in rule cotbal.
        on_unidentified: a task whose column of C cannot be told: "raise" or "drop".
        mode: "full"; "cheap": probes on a quarter of their task, and a model of equal weights that exists;
            "no-probes": that model and the mini run, nothing else.
        equal_model: the folder of that model, trained on all data with equal weights.
        budget: what the runs may come to at most, such as "5000 samples" or "80 GPU-hours".
        shrink: pull noisy contributions and difficulties to their mean by their reliability; needs items.
        precise: difficulty from runs on each task alone.
        step_matched: let the mini run take as many steps as the mean probe; needs {steps}.
        resources: what the runs may use.
    """

    schema_version: Literal[1] = 1
    output: PathText
    base_model: PathText
    tasks: dict[Text, Task]
    train: Train
    evaluate: Evaluate
    mini_ratio: Text | float = "1/32"
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, default_factory=lambda: [0])]
    rule: Text = "cotbal"
    temperature: Positive = 0.5
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    on_unidentified: Literal["raise", "drop"] = "raise"
    mode: Literal["full", "cheap", "no-probes"] = "full"
    equal_model: PathText | None = None
    budget: Annotated[str, AfterValidator(_budget)] | None = None
    shrink: bool = False
    precise: bool = False
    step_matched: bool = False
    resources: Resources = Resources()
    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """The file's folder, in which the commands run."""
        return self._folder

    @property
    def out(self) -> Path:
        """The folder for everything that is written."""
        return self.folder / self.output

    @property
    def ratio(self) -> Fraction:
        """`mini_ratio` as the very fraction that was written."""
        return Fraction(str(self.mini_ratio))

    @property
    def weighted(self) -> list[str]:
        """The tasks that take part in the estimate."""
        return [name for name, task in self.tasks.items() if task.weight is None]

    @property
    def fixed(self) -> dict[str, float]:
        """The weight of each task that takes no part."""
        return {name: task.weight for name, task in self.tasks.items() if task.weight is not None}

    @field_validator("mini_ratio")
    @classmethod
    def _a_share(cls, ratio: str | float) -> str | float:
        try:
            good = 0 < Fraction(str(ratio)) < 1
        except (ValueError, ZeroDivisionError):
            good = False
        if not good:
            raise ValueError(f"expected a share between 0 and 1 such as 1/32, got {ratio!r}")
        return ratio

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        for name in tasks:
            check_estimated(name)
        # A Mac's disk, and a task's folder on it, does not tell them apart.
        spelt = {name.casefold(): name for name in tasks}
        if twins := [name for name in tasks if spelt[name.casefold()] != name]:
            raise ValueError(
                f"expected task names that differ in more than case, got {twins[0]!r} and "
                f"{spelt[twins[0].casefold()]!r}"
            )
        weighted = [name for name, task in tasks.items() if task.weight is None]
        if len(weighted) < 2:
            raise ValueError(f"expected at least two tasks without a fixed weight, got {len(weighted)}")
        return tasks

    @field_validator("tasks")
    @classmethod
    def _held_out(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        trained = trained_files(tasks)
        for name, task in tasks.items():
            if task.validation is not None and (others := trained.get(os.path.normpath(task.validation))):
                raise ValueError(
                    f"expected a validation file of {name!r} that no task trains on, got {task.validation}, "
                    f"which is in train of {', '.join(others)}; hold some of its records out in a file of "
                    "their own"
                )
        return tasks

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        if rule not in RULES:
            raise ValueError(f"expected one of {', '.join(RULES)}, got {rule!r}")
        return rule

    @model_validator(mode="after")
    def _commands_fit(self) -> Project:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected each once, got {self.seeds}")
        for key, command in self._train_commands().items():
            if len(self.seeds) > 1 and "seed" not in placeholders(command):
                raise ValueError(f"seeds: several need {{seed}} in {key}; all would train the same model")
        if self.shrink and self.precise:
            raise ValueError("shrink: it does without precise, whose runs have no items; drop one of the two")
        if self.step_matched and "steps" not in placeholders(self.train.of_estimate):
            raise ValueError(f"step_matched: it needs {{steps}} in {list(self._train_commands())[-1]}")
        if self.evaluate.probe_command is not None and self.train.probe_command is None:
            raise ValueError("evaluate.probe_command: it scores the models of train.probe_command; give both")
        commands = [*self._train_commands().values()]
        commands += [self.evaluation(name, probe=probe) for name in self.tasks for probe in (False, True)]
        if any("gpus" in placeholders(each) for each in commands) and not self.resources.gpus_of_a_command:
            raise ValueError(
                "resources: a command has {gpus}, which is 0 without resources.gpus; add "
                "`resources: {gpus: 1}`, or write the number itself"
            )
        for name in self.weighted:
            used = {*placeholders(self.evaluation(name)), *placeholders(self.evaluation(name, probe=True))}
            if self.tasks[name].validation is None and "data" in used:
                raise ValueError(f"tasks.{name}: the evaluation command has {{data}}; give its validation")
            if self.tasks[name].tests and "data" not in placeholders(self.evaluation(name)):
                raise ValueError(f"tasks.{name}: its test files need {{data}} in the evaluation command")
        return self

    @model_validator(mode="after")
    def _mode_fits(self) -> Project:
        if self.mode == "full":
            return self
        if self.train.probe_command is not None and not self.train.differ_in_weights_alone:
            raise ValueError(
                f"train.probe_command: mode {self.mode} compares its models with equal_model, which "
                "train.command has trained; drop one, or let it be train.command without {weights}"
            )
        if self.equal_model is None:
            raise ValueError(f"mode: {self.mode} needs equal_model, a model of all data with equal weights")
        if self.precise:
            raise ValueError(f"precise: mode {self.mode} takes the difficulty from equal_model; drop one")
        if self.mode == "no-probes" and self.shrink:
            raise ValueError("shrink: mode no-probes measures no contribution to pull; drop one of the two")
        if self.mode == "cheap":
            if self.ratio > LARGEST_MINI_OF_CHEAP:
                raise ValueError(
                    f"mini_ratio: expected at most {LARGEST_MINI_OF_CHEAP} in mode cheap, whose probes have "
                    f"1/4 of their task and gain too little on a larger subset, got {self.mini_ratio}"
                )
            return self
        if self.step_matched:
            raise ValueError(f"step_matched: mode {self.mode} has no probes to match")
        if self.rule != "cotbal":
            raise ValueError(f"rule: expected cotbal, the only one of mode {self.mode}, got {self.rule!r}")
        return self

    def evaluation(self, task: str, *, probe: bool = False) -> str:
        """The evaluation command of a task, for a final model or for one of the estimate."""
        of_all = (probe and self.evaluate.probe_command) or self.evaluate.command
        return self.tasks[task].evaluate or of_all

    def _train_commands(self) -> dict[str, str]:
        """By key."""
        commands = {"train.command": self.train.command, "train.probe_command": self.train.probe_command}
        return {key: command for key, command in commands.items() if command is not None}


def load_project(
    path: str | Path,
    *,
    precise: bool = False,
    step_matched: bool = False,
    mode: str | None = None,
    budget: str | None = None,
) -> Project:
    """The project in a YAML file.

    Args:
        path: the file.
        precise: asks for it whatever the file says.
        step_matched: likewise.
        mode: in the place of the file's.
        budget: likewise.

    Raises:
        OSError: the file cannot be read.
        ValueError: a mistake in it, told with its line and place.
    """
    asked = {"precise": precise or None, "step_matched": step_matched or None, "mode": mode, "budget": budget}
    project = load_yaml(path, Project, {key: value for key, value in asked.items() if value is not None})
    project._folder = Path(os.path.abspath(path)).parent
    # Commands, plans and results name files in it, as text.
    if not is_utf8(str(project._folder)):
        raise ValueError(
            f"{writable(str(path))}: expected a folder whose path is UTF-8, got "
            f"{writable(str(project._folder))}; give it another name"
        )
    return project
