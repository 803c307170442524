"""How ms-swift comes to train with the balanced loss: by its own table of trainers."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cotbal.balancing import Weighting, Weights, as_weighting, stated_tasks
from cotbal.integrations.swift.channels import one_key_each, with_channels
from cotbal.integrations.swift.refusals import check_arguments

_OLDEST = (4, 6)
_TRAINER = "cotbal.integrations.swift.trainer.CoTBalSeq2SeqTrainer"
# What a plugin of `balance` stands on: where one is missing, nothing is half done.
_NEEDED = {
    "swift.trainers": (
        "Seq2SeqTrainer._get_data_collator",
        "Seq2SeqTrainer._compute_acc",
        "TrainerFactory.TRAINER_MAPPING",
        "TrainerFactory.get_training_args",
    ),
    "swift.dataset": ("DatasetLoader.load", "RowPreprocessor.safe_rename_columns"),
    "swift.loss_scale": ("get_loss_scale",),
}


@dataclass(frozen=True)
class Choice:
    """What the user chose; it is read when arguments of a training are made, not before.

    Attributes:
        weights: as of `CoTBalMixin`; None: the file that COTBAL_WEIGHTS names.
        tasks: task names in the order of their ids; None: those of the weights, else of the data.
        file_tasks: task by dataset, for records that name none.
        level: as in `install_loss`.
    """

    weights: Weights | None = None
    tasks: tuple[str, ...] | None = None
    file_tasks: Mapping[str, str] = field(default_factory=dict)
    level: str = "auto"

    def weighting(self) -> Weighting:
        """The rule that the weights come from.

        Raises:
            OSError: its file cannot be read.
            ValueError: there is none, or it cannot be right.
        """
        weights = self.weights
        if weights is None:
            weights = os.environ.get("COTBAL_WEIGHTS") or None
        if weights is None:
            raise ValueError(
                "COTBAL_WEIGHTS: expected it to name the JSON file with the task weights, got none; "
                "export COTBAL_WEIGHTS=weights.json, or call balance(weights=...) in a plugin of your own"
            )
        return as_weighting(weights, self.tasks)

    def names(self) -> tuple[str, ...] | None:
        """The task names as far as they are stated; None: those of the data."""
        return stated_tasks(self.tasks, self.weighting())


chosen = Choice()


def balance(
    weights: Weights | None = None,
    *,
    tasks: Iterable[str] | Mapping[str, str] | None = None,
    level: str = "auto",
) -> None:
    """Makes `swift sft` train with the balanced loss, in the process whose `--external_plugins` calls this.

    Args:
        weights: a file, a mapping from task to weight, `TaskWeights` or a `Weighting`; None: the file that
            COTBAL_WEIGHTS names. A task is what the key `channel` of a record holds.
        tasks: the task by dataset of `--dataset`, its path or bare name, for records without a channel; or
            task names in the order of their ids, for a `Weighting` that names none. None: those of the
            weights, else of the data.
        level: "linear", "logits" or "auto", as in `install_loss`.

    Raises:
        ImportError: no ms-swift, one that is too old or has changed where this stands on, or Megatron's.
    """
    _check_package()
    global chosen
    if isinstance(tasks, Mapping):
        chosen = Choice(weights, None, tasks, level)
    else:
        chosen = Choice(weights, None if tasks is None else tuple(tasks), level=level)
    factory = import_module("swift.trainers").TrainerFactory
    if factory.TRAINER_MAPPING.get("causal_lm") == _TRAINER:
        return
    factory.TRAINER_MAPPING["causal_lm"] = _TRAINER
    # Where every stage makes its arguments, before a model is loaded.
    factory.get_training_args = classmethod(_checked(factory.get_training_args.__func__))
    data = import_module("swift.dataset")
    data.DatasetLoader.load = with_channels(data.DatasetLoader.load, lambda: chosen.file_tasks)
    rows = data.RowPreprocessor
    rows.safe_rename_columns = staticmethod(one_key_each(rows.safe_rename_columns))


def _checked(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def get_training_args(factory: type, args: Any) -> Any:
        check_arguments(args)
        chosen.names()
        return own(factory, args)

    return get_training_args


def installed_version() -> str:
    """That of ms-swift.

    Raises:
        ImportError: there is none.
    """
    try:
        return version("ms-swift")
    except PackageNotFoundError as error:
        raise ImportError("expected ms-swift, got none installed; pip install ms-swift==4.6.0") from error


def _check_package() -> None:
    found = installed_version()
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        raise ImportError(f"ms-swift: expected 4.6 or newer, got {found}; pip install --upgrade ms-swift")
    if "swift.megatron" in sys.modules:
        raise ImportError(
            "megatron: expected swift sft, got Megatron's training, whose loss never sees the tasks; use "
            "swift sft with DeepSpeed or FSDP"
        )
    for module, names in _NEEDED.items():
        for name in names:
            _check_place(module, name, found)


def _check_place(module: str, name: str, found: str) -> None:
    place: Any = import_module(module)
    for part in name.split("."):
        place = getattr(place, part, None)
    if place is None:
        raise ImportError(
            f"ms-swift: expected {module}.{name}, which is not in {found}; this cotbal knows 4.6.0: "
            "pip install ms-swift==4.6.0, or a newer cotbal"
        )
