"""The functions of LLaMA-Factory that are wrapped: each calls its own one and adds the task."""

import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cotbal.balancing import Weighting
from cotbal.integrations.checkpoints import newest_checkpoint, stopped
from cotbal.integrations.huggingface.patching import patch_huggingface
from cotbal.integrations.llamafactory.options import Options, RefusedError, StoppedError, checked_tasks
from cotbal.integrations.llamafactory.prompts import compared_prompts
from cotbal.integrations.llamafactory.records import FOLDER, TaskFile, write_datasets
from cotbal.replacements import Replacements

_TASK = "task"
_NAME = "cotbal_task"
_INSTALL = "this was made for 0.9.5: pip install llamafactory==0.9.5, with what it asks for"


@dataclass
class BalancedRun:
    """One training, and from its parsed arguments on its tasks and their weights.

    Attributes:
        options: ours.
        file: with the records of all tasks, None where there is none.
        tasks: their names, in the order of `dataset`.
        weighting: what their weights come from.
        datasets: the folder that was made of the file.
        replaced: the functions that are wrapped.
    """

    options: Options
    file: TaskFile | None = None
    tasks: tuple[str, ...] = ()
    weighting: Weighting | None = None
    datasets: Path | None = None
    replaced: Replacements = field(default_factory=Replacements)

    def install(self) -> None:
        """Wraps the functions.

        Raises:
            ImportError: this LLaMA-Factory has not all of them.
        """
        hooks: dict[tuple[str, str], Callable[..., Any]] = {
            ("train.tuner", "get_train_args"): self._arguments,
            ("hparams.parser", "get_last_checkpoint"): _last_whole_checkpoint,
            ("data.loader", "get_dataset_list"): _datasets_with_names,
            ("data.converter", "get_dataset_converter"): _converter,
            ("data.loader", "_get_dataset_processor"): _processor,
            ("data.loader", "_get_preprocessed_dataset"): _preprocessed,
            ("train.sft.workflow", "CustomSeq2SeqTrainer"): self._trainer,
        }
        found = {key: theirs(*key) for key in hooks}
        for (where, name), hook in hooks.items():
            module = found[where, name]
            self.replaced.set(module, name, partial(hook, getattr(module, name)))

    def train(self, own: Callable[[], Any]) -> None:
        """Runs LLaMA-Factory's own training; its functions are as they were afterwards."""
        try:
            own()
        finally:
            self.replaced.undo()
        if self.datasets is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            # The records are no part of the model. A run that was cut off finds them again.
            shutil.rmtree(self.datasets.parent, ignore_errors=True)

    def _arguments(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parsed = own(*args, **kwargs)
        self.tasks = checked_tasks(*parsed)
        self.weighting = self.options.weighting(self.tasks)
        if self.file is not None:
            self._make_datasets(self.file, *parsed[1:3])
        return parsed

    def _make_datasets(self, file: TaskFile, data: Any, training: Any) -> None:
        """Has LLaMA-Factory read the file from a folder that the processes share, as its caches."""
        with training.main_process_first(local=not data.data_shared_file_system, desc="cotbal_data"):
            self.datasets = write_datasets(file, Path(training.output_dir) / FOLDER)
        data.dataset_dir = str(self.datasets)

    def _trainer(self, own: Callable[..., Any], **arguments: Any) -> Any:
        if _TASK not in next(iter(arguments["train_dataset"])):
            raise RefusedError(
                f"train_dataset: expected the key {_TASK!r} in its records, got none: a data set at "
                "tokenized_path was written without it. Give another tokenized_path, and it is written anew"
            )
        trainer = own(**arguments)
        patch = patch_huggingface(
            trainer, weighting=self.weighting, tasks=self.tasks, level=self.options.level
        )
        if trainer.is_world_process_zero():
            names = ("tokenizer", "processor")
            prompts = compared_prompts(arguments["data_collator"].template, *map(arguments.get, names))
            print(*(f"cotbal: {line}" for line in (*patch.describe(), prompts)), sep="\n", flush=True)
        if getattr(trainer.args, "enable_jit_checkpoint", False):
            trainer.train = partial(_to_the_end, trainer, trainer.train)
        return trainer


@dataclass
class _Converter:
    """Their converter of a record, which keeps none of the record's own keys, and the record's task."""

    own: Callable[[dict[str, Any]], dict[str, Any]]
    task: str

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        return {**self.own(example), _TASK: self.task}


@dataclass
class _Processor:
    """Their tokenization, a record at a time: those that are not valid are dropped with their tasks."""

    own: Any

    def preprocess_dataset(self, examples: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        columns = dict(examples)
        if _TASK not in columns:
            return self.own.preprocess_dataset(columns)
        tasks = columns.pop(_TASK)
        made: dict[str, list[Any]] = {}
        for index, task in enumerate(tasks):
            rows = self.own.preprocess_dataset({key: [column[index]] for key, column in columns.items()})
            if rows:
                rows[_TASK] = [task] * len(rows["input_ids"])
            for key, values in rows.items():
                made.setdefault(key, []).extend(values)
        return made

    def print_data_example(self, example: dict[str, Any]) -> None:
        self.own.print_data_example(example)


def _to_the_end(trainer: Any, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The trainer's own training; StoppedError where a signal has ended it, before its model is saved."""
    result, state = own(*args, **kwargs), trainer.state
    callbacks = trainer.callback_handler.callbacks
    may_stop = any(type(each).__name__ == "EarlyStoppingCallback" for each in callbacks)
    if state.global_step < state.max_steps and not may_stop:
        # A rank that ended while another still writes would take the connection with it.
        trainer.accelerator.wait_for_everyone()
        raise StoppedError(stopped(trainer.args.output_dir, state.global_step, state.max_steps))
    return result


def _last_whole_checkpoint(own: Callable[..., Any], folder: str) -> str | None:
    """The last that is complete: a kill or a full disk may have cut the next one off."""
    newest = newest_checkpoint(folder)
    return None if newest is None else str(newest)


def _datasets_with_names(own: Callable[..., Any], names: Any, *args: Any, **kwargs: Any) -> Any:
    attributes = own(names, *args, **kwargs)
    for name, each in zip(names or (), attributes, strict=True):
        setattr(each, _NAME, name)
    return attributes


def _converter(own: Callable[..., Any], formatting: str, attributes: Any, *args: Any, **kwargs: Any) -> Any:
    return _Converter(own(formatting, attributes, *args, **kwargs), getattr(attributes, _NAME))


def _processor(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return _Processor(own(*args, **kwargs))


def _preprocessed(
    own: Callable[..., Any], dataset: Any, *args: Any, is_eval: bool = False, **kwargs: Any
) -> Any:
    # Evaluation is the trainer's own, on datasets that need no weight.
    dataset = dataset.remove_columns([_TASK]) if is_eval and dataset is not None else dataset
    return own(dataset, *args, is_eval=is_eval, **kwargs)


def theirs(where: str, name: str) -> Any:
    """A module of LLaMA-Factory that has this function.

    Raises:
        ImportError: there is none.
    """
    try:
        module = importlib.import_module(f"llamafactory.{where}")
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; {_INSTALL}") from error
    if not hasattr(module, name):
        found = version("llamafactory")
        raise ImportError(f"llamafactory: expected {where}.{name}, got {found} without it; {_INSTALL}")
    return module
