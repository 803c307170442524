"""The parts of an estimate's file: a task, how a model is trained, how it is scored."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cotbal.estimate.transforms import checked_transforms
from cotbal.project.functions import check_function
from cotbal.project.strict import PathText, Positive, Strict, Text
from cotbal.project.template import EVALUATE, TRAIN, check_template, placeholders

NO_WEIGHTS = (
    "train.command has no {weights}, which `cotbal train` needs. Put it in before the first run: another "
    "command is another run. Later, keep the command of now as train.probe_command, and what is finished "
    "counts"
)


def _train_command(command: str) -> str:
    return check_function(check_template(command, TRAIN, ("data", "output")))


def _evaluate_command(command: str) -> str:
    return check_function(check_template(command, EVALUATE, ("model", "scores")))


class Task(Strict):
    """One task.

    Attributes:
        train: its training data, one file or several: JSON arrays or JSONL, one record each.
        validation: what {data} is in the evaluation command; None where the command knows by itself.
        test: what {data} is for a final model, one file or several test sets by name; None: `validation`.
        metric: the name of the score, for people.
        better: "higher" or "lower".
        transform: where lower is better, "reciprocal" (1/m) or "complement: bound" (bound - m).
        weight: the fixed weight of a task that takes no part in the estimate.
        evaluate: an evaluation command of its own.
    """

    train: PathText | list[PathText]
    validation: PathText | None = None
    test: PathText | dict[Text, PathText] | None = None
    metric: Text = "score"
    better: Literal["higher", "lower"] = "higher"
    transform: Text | None = None
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    evaluate: Annotated[str, AfterValidator(_evaluate_command)] | None = None

    @property
    def files(self) -> list[str]:
        """The training files as a list."""
        return [self.train] if isinstance(self.train, str) else list(self.train)

    @property
    def tests(self) -> dict[str, str]:
        """The test files by the names of their sets; the name of a single one is ""."""
        return self.test if isinstance(self.test, dict) else {"": self.test} if self.test else {}

    @field_validator("train")
    @classmethod
    def _some_file(cls, train: str | list[str]) -> str | list[str]:
        if not train:
            raise ValueError("expected a file or a list of files, got an empty list")
        return train

    @field_validator("test")
    @classmethod
    def _some_test(cls, test: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(test, dict) and (not test or any("/" in name for name in test)):
            raise ValueError(f"expected a file, or files by names without '/', got {test}")
        return test

    @model_validator(mode="after")
    def _files_differ(self) -> Task:
        files = [os.path.normpath(file) for file in self.files]
        if len(set(files)) < len(files):
            raise ValueError(
                f"train: expected each file once, got {', '.join(self.files)}; one whose records are to "
                "count twice needs a copy under another name"
            )
        if self.validation is not None and os.path.normpath(self.validation) in files:
            raise ValueError(
                f"validation: expected a file that is not in train, got {self.validation}; hold some of its "
                "records out in a file of their own"
            )
        return self

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


class Train(Strict):
    """How a model is trained.

    Attributes:
        command: the template; `cotbal.project.template.TRAIN` lists the placeholders.
        probe_command: in its place in the runs of the estimate, such as one that trains LoRA adapters.
        epochs: passes over the data, for {epochs}, {steps} and the price.
        batch_size: samples of an optimizer step over all GPUs, for {steps} and the progress.
        format: of the file that {data} names.
        resume: keep {output} when a run starts again, so that the command can go on from its checkpoint.
        samples_per_gpu_hour: throughput, for the price.
    """

    command: Annotated[str, AfterValidator(_train_command)]
    probe_command: Annotated[str, AfterValidator(_train_command)] | None = None
    epochs: Positive = 1.0
    batch_size: Annotated[int, Field(ge=1)] | None = None
    format: Literal["json", "jsonl"] = "json"
    resume: bool = False
    samples_per_gpu_hour: Positive | None = None

    @model_validator(mode="after")
    def _steps_are_known(self) -> Train:
        used = {*placeholders(self.command), *placeholders(self.of_estimate)}
        if "steps" in used and self.batch_size is None:
            raise ValueError("the command has {steps}: it needs batch_size, the samples of an optimizer step")
        return self

    @property
    def of_estimate(self) -> str:
        """The command of the mini run and the probes."""
        return self.probe_command or self.command

    @property
    def takes_weights(self) -> bool:
        """Whether weights can reach a final model."""
        return "weights" in placeholders(self.command)

    @property
    def differ_in_weights_alone(self) -> bool:
        """Whether probe_command is the command without its {weights} and the option before it."""
        return self.probe_command == re.sub(r"\s+(-\S+\s+)?[^\s{]*\{weights\}", "", self.command)


class Evaluate(Strict):
    """How a model is scored on one task.

    Attributes:
        command: the template; `cotbal.project.template.EVALUATE` lists the placeholders.
        probe_command: in its place for the models of `train.probe_command`.
        resume: keep {output} when an evaluation starts again, so that the command can go on from its answers.
        items_per_gpu_hour: throughput, for the price.
    """

    command: Annotated[str, AfterValidator(_evaluate_command)]
    probe_command: Annotated[str, AfterValidator(_evaluate_command)] | None = None
    resume: bool = False
    items_per_gpu_hour: Positive | None = None


def trained_files(tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """The names of the tasks that train on each file."""
    found: dict[str, list[str]] = {}
    for name, task in tasks.items():
        for file in task.files:
            found.setdefault(os.path.normpath(file), []).append(name)
    return found


def shared_files(tasks: Mapping[str, Task]) -> list[str]:
    """A sentence on each training file of several tasks, such as records with labels of all of them."""
    return [
        f"{', '.join(names)} train on one file, {file}: unless your commands make other samples of its "
        "records by their `task`, the full data of one task are the others' too"
        for file, names in trained_files(tasks).items()
        if len(names) > 1
    ]
