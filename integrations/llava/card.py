"""What a run leaves beside its model: the weights with their provenance, and a section of the model card."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cotbal.balancing import StaticWeights, Weighting, save_rule
from cotbal.files import writable, write_text_atomically
from cotbal.integrations.llava.card_section import (
    TaskRow,
    card_section,
    command_line,
    versions,
    with_section,
)
from cotbal.step_balance import StepBalance
from cotbal.weights import TaskWeights

WEIGHTS_FILE = "cotbal_weights.json"
_CARD = "README.md"


class RunCard(TrainerCallback):
    """Writes the weights at a run's start, the model card's section at its end.

    Args:
        balance: the trainer's.
        records: how many records of each task the data has.
        package: LLaVA's.
        loss: how the loss is computed, in words.
    """

    def __init__(self, balance: StepBalance, records: Mapping[str, int], *, package: str, loss: str) -> None:
        self.balance, self.records, self.package, self.loss = balance, records, package, loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the weights, or the rule that computes them."""
        if state.is_world_process_zero:
            save_weights(self.balance.weighting, self.balance.tasks, Path(args.output_dir) / WEIGHTS_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the section."""
        # Of the steps since the last logging: a collective, so every rank comes here.
        history = [*state.log_history, self.balance.logs()]
        if not state.is_world_process_zero:
            return
        lines = [
            _weights_line(self.balance.weighting),
            f"Loss: {self.loss}.",
            f"Steps: {state.global_step}, of {_samples(args)} samples.",
        ]
        path = Path(args.output_dir) / _CARD
        try:
            command, installed = command_line(sys.orig_argv), versions(self.package)
            section = writable(card_section(self._rows(history), lines, command, installed))
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            write_text_atomically(path, with_section(text, section))
        except (OSError, ValueError) as error:
            # LLaVA saves its model after this; a card is not worth one. It may be no UTF-8.
            logging.getLogger(__name__).warning("the model card %s was not written: %s", path, error)

    def _rows(self, history: Sequence[Mapping[str, float]]) -> list[TaskRow]:
        return [
            TaskRow(
                name=name,
                records=self.records[name],
                tokens=int(sum(logs.get(f"task_tokens/{name}", 0) for logs in history)),
                weight=_last(history, f"task_weight/{name}"),
            )
            for name in self.balance.tasks
        ]


def save_weights(weighting: Weighting, tasks: Iterable[str], path: Path) -> Path:
    """Returns `path` after writing static weights there by `TaskWeights.save`; another rule by `save_rule`.

    Args:
        weighting: the rule of the run.
        tasks: the names in the order of their ids.
        path: a JSON file.
    """
    names = tuple(tasks)
    if isinstance(weighting, StaticWeights):
        equal = TaskWeights(dict.fromkeys(names, 1.0), rule="equal")
        given = equal if weighting.given is None else weighting.given
        return given.save(path)
    return save_rule(weighting, path, names)


def _weights_line(weighting: Weighting) -> str:
    if not isinstance(weighting, StaticWeights):
        options = ", ".join(f"{name}={value}" for name, value in weighting.options.items())
        return f"Weights: of each step by {type(weighting).__name__}({options}); here the last logged."
    if weighting.given is None:
        return "Weights: all 1, the ordinary mean over the tokens of a step."
    given = weighting.given
    facts = {"T": given.temperature, "alpha": given.alpha, "fixed": ", ".join(given.fixed) or None}
    stated = [f"{name} {value}" for name, value in facts.items() if value is not None]
    return f"Weights: by the rule {', '.join([repr(given.rule), *stated])}; {WEIGHTS_FILE} has all of it."


def _samples(args: TrainingArguments) -> str:
    factors = {
        "processes": args.world_size,
        "accumulated": args.gradient_accumulation_steps,
        "per device": args.per_device_train_batch_size,
    }
    return f"{prod(factors.values())} ({', '.join(f'{name} {size}' for name, size in factors.items())})"


def _last(history: Sequence[Mapping[str, float]], key: str) -> float:
    return next((logs[key] for logs in reversed(history) if key in logs), float("nan"))
