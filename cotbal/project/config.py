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

Paths are relative to the file's folder, in which the commands run.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from cotbal.estimate.rules import RULES
from cotbal.estimate.score_csv import RESERVED
from cotbal.estimate.transforms import checked_transforms
from cotbal.project.template import EVALUATE, TRAIN, check_template, placeholders
from cotbal.project.yaml_file import load_yaml

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _train_command(command: str) -> str:
    return check_template(command, TRAIN, ("data", "output"))


def _evaluate_command(command: str) -> str:
    return check_template(command, EVALUATE, ("model", "scores"))


class _Strict(BaseModel):
    # Strict: YAML has types of its own, and `yes` is no number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Task(_Strict):
    """One task.

    Attributes:
        train: its training data, one file or several: JSON arrays or JSONL, one record each.
        validation: what {data} is in the evaluation command; None where the command knows by itself.
        metric: the name of the score, for people.
        better: "higher" or "lower".
        transform: where lower is better, "reciprocal" (1/m) or "complement: bound" (bound - m).
        weight: the fixed weight of a task that takes no part in the estimate.
        evaluate: an evaluation command of its own.
    """

    train: Text | list[Text]
    validation: Text | None = None
    metric: Text = "score"
    better: Literal["higher", "lower"] = "higher"
    transform: Text | None = None
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    evaluate: Annotated[str, AfterValidator(_evaluate_command)] | None = None

    @property
    def files(self) -> list[str]:
        """The training files as a list."""
        return [self.train] if isinstance(self.train, str) else list(self.train)

    @field_validator("train")
    @classmethod
    def _some_file(cls, train: str | list[str]) -> str | list[str]:
        if not train:
            raise ValueError("expected a file or a list of files, got an empty list")
        return train

    @model_validator(mode="after")
    def _transform_fits(self) -> Task:
        if self.better == "lower" and self.transform is None:
            raise ValueError(
                "better: lower needs a transform: 'reciprocal' (1/m) or 'complement: bound' (bound - m)"
            )
        if self.better == "higher" and self.transform is not None:
            raise ValueError("a transform belongs to better: lower; drop it or say so")
        checked_transforms({"task": self.transform} if self.transform else {}, ["task"])
        return self


class Train(_Strict):
    """How a model is trained.

    Attributes:
        command: the template; `cotbal.project.template.TRAIN` lists the placeholders.
        epochs: passes over the data, for {epochs}, {steps} and the price.
        batch_size: samples of an optimizer step over all GPUs, for {steps} and the progress.
        format: of the file that {data} names.
        resume: keep {output} when a run starts again, so that the command can go on from its checkpoint.
        samples_per_gpu_hour: throughput, for the price.
    """

    command: Annotated[str, AfterValidator(_train_command)]
    epochs: Positive = 1.0
    batch_size: Annotated[int, Field(ge=1)] | None = None
    format: Literal["json", "jsonl"] = "json"
    resume: bool = False
    samples_per_gpu_hour: Positive | None = None

    @model_validator(mode="after")
    def _steps_are_known(self) -> Train:
        if "steps" in placeholders(self.command) and self.batch_size is None:
            raise ValueError("the command has {steps}: it needs batch_size, the samples of an optimizer step")
        return self


class Evaluate(_Strict):
    """How a model is scored on one task.

    Attributes:
        command: the template; `cotbal.project.template.EVALUATE` lists the placeholders.
        items_per_gpu_hour: throughput, for the price.
    """

    command: Annotated[str, AfterValidator(_evaluate_command)]
    items_per_gpu_hour: Positive | None = None


class Resources(_Strict):
    """What the runs may use of this machine.

    Attributes:
        gpus: how many of its GPUs, or their numbers; 0 for none.
        gpus_per_run: GPUs of each command.
        slots: commands at once where there are no GPUs.
        retries: how often a command that failed starts again.
    """

    gpus: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = 0
    gpus_per_run: Annotated[int, Field(ge=1)] = 1
    slots: Annotated[int, Field(ge=1)] = 1
    retries: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _groups_fit(self) -> Resources:
        if self.gpus and len(self._numbers(None)) < self.gpus_per_run:
            raise ValueError(
                f"gpus_per_run: expected at most the {len(self._numbers(None))} gpus of the file"
            )
        return self

    def environments(self, visible: str | None) -> list[dict[str, str]]:
        """What each command has in its environment: a group of GPUs, or nothing.

        Args:
            visible: CUDA_VISIBLE_DEVICES as it is for this process; a number of GPUs is taken from it.
        """
        if not self.gpus:
            return [{} for _ in range(self.slots)]
        numbers, size = self._numbers(visible), self.gpus_per_run
        groups = [numbers[start : start + size] for start in range(0, len(numbers) - size + 1, size)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]

    def _numbers(self, visible: str | None) -> list[str]:
        if isinstance(self.gpus, list):
            return [str(number) for number in self.gpus]
        if not visible:
            return [str(number) for number in range(self.gpus)]
        numbers = [number for number in visible.split(",") if number]
        if len(numbers) < self.gpus:
            raise ValueError(
                f"resources.gpus: expected at most {len(numbers)} as in CUDA_VISIBLE_DEVICES, got {self.gpus}"
            )
        return numbers[: self.gpus]


class Project(_Strict):
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
        shrink: pull noisy contributions and difficulties to their mean by their reliability; needs items.
        precise: difficulty from runs on each task alone.
        step_matched: let the mini run take as many steps as the mean probe; needs {steps}.
        resources: what the runs may use.
    """

    schema_version: Literal[1] = 1
    output: Text
    base_model: Text
    tasks: dict[Text, Task]
    train: Train
    evaluate: Evaluate
    mini_ratio: Text | float = "1/32"
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    rule: Text = "cotbal"
    temperature: Positive = 0.5
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    on_unidentified: Literal["raise", "drop"] = "raise"
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
            if name in RESERVED or "/" in name or not name.strip():
                raise ValueError(f"expected a task name without '/' that is none of {RESERVED}, got {name!r}")
        weighted = [name for name, task in tasks.items() if task.weight is None]
        if len(weighted) < 2:
            raise ValueError(f"expected at least two tasks without a fixed weight, got {len(weighted)}")
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
        if len(self.seeds) > 1 and "seed" not in placeholders(self.train.command):
            raise ValueError("seeds: several need {seed} in train.command; all would train the same model")
        if self.shrink and self.precise:
            raise ValueError("shrink: it does without precise, whose runs have no items; drop one of the two")
        if self.step_matched and "steps" not in placeholders(self.train.command):
            raise ValueError("step_matched: it needs {steps} in train.command")
        for name in self.weighted:
            if self.tasks[name].validation is None and "data" in placeholders(self.evaluation(name)):
                raise ValueError(f"tasks.{name}: the evaluation command has {{data}}; give its validation")
        return self

    def evaluation(self, task: str) -> str:
        """The evaluation command of a task."""
        return self.tasks[task].evaluate or self.evaluate.command


def load_project(path: str | Path, *, precise: bool = False, step_matched: bool = False) -> Project:
    """The project in a YAML file.

    Args:
        path: the file.
        precise: asks for it whatever the file says.
        step_matched: likewise.

    Raises:
        OSError: the file cannot be read.
        ValueError: a mistake in it, told with its line and place.
    """
    asked = {"precise": precise, "step_matched": step_matched}
    project = load_yaml(path, Project, {key: True for key, wanted in asked.items() if wanted})
    project._folder = Path(os.path.abspath(path)).parent
    return project
