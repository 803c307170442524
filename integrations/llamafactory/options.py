"""Our keys in LLaMA-Factory's yaml, and what of its own keys cannot be exact beside them."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from cotbal.balancing import StaticWeights, Weighting, as_weighting, by_name
from cotbal.integrations.level_names import LEVELS
from cotbal.tasks import task_names, unknown_task

KEYS = {
    "cotbal_data": "instead of dataset: a file with the records of all tasks",
    "cotbal_weights": "a file, {dataset: weight} or a list in their order (default: COTBAL_WEIGHTS, else 1)",
    "cotbal_rule": "instead: a rule that computes the weights of each step: tla, rlw, dwa, igbv1",
    "cotbal_rule_options": "the rule's own, as {window: 25, fixed: {chat: 1.0}}",
    "cotbal_level": "where the loss is: auto, linear or logits",
}
_OTHER_LOSS = "it trains on another loss than cross-entropy, which the weights would replace; leave it out"
_OTHER_WAY = "it trains by another trainer than run_sft's, which never sees the tasks; leave it out"
_OWN_LOSS = "it computes the loss inside the model, which never sees the tasks; leave it out"
_PACKED = "a packed row holds records of several datasets and does not tell which; set it to false"
_REFUSED = {
    "use_dft_loss": _OTHER_LOSS,
    "use_asft_loss": _OTHER_LOSS,
    "use_eaft_loss": _OTHER_LOSS,
    "use_mca": _OTHER_WAY,
    "use_hyper_parallel": _OTHER_WAY,
    "use_kt": _OTHER_WAY,
    "enable_liger_kernel": _OWN_LOSS,
    "use_unsloth": _OWN_LOSS,
    "label_smoothing_factor": "transformers' smoothing bypasses the weights; leave it out",
    "neat_packing": _PACKED,
    "packing": _PACKED,
}
# Beside cotbal_data.
_OTHER_DATA = {
    "dataset": "the tasks of its records are the datasets",
    "dataset_dir": "its records are all there is",
    "eval_dataset": "it would be looked for among its tasks; val_size takes some of its records",
    "tokenized_path": "what lies there would be trained on, whatever the records are",
}


class RefusedError(ValueError):
    """Something that the user gave cannot be right; the message says what to do."""


class StoppedError(RuntimeError):
    """The training was stopped before its last step."""


@dataclass(frozen=True)
class Options:
    """What the yaml says to cotbal.

    Attributes:
        data: a file with the records of all tasks; None: each entry of `dataset` is a task.
        weights: a file, a mapping from dataset to weight or a list in the order of `dataset`; None: all 1.
        rule: the name of a rule that computes the weights instead, with its options.
        level: as in `install_loss`.
    """

    data: str | None = None
    weights: Any = None
    rule: str | None = None
    rule_options: MutableMapping[str, Any] | None = None
    level: str = "auto"

    def weighting(self, tasks: tuple[str, ...]) -> Weighting:
        """The rule that the weights of these tasks come from.

        Raises:
            RefusedError: weights or a rule that cannot be right for them.
        """
        try:
            if self.rule is not None:
                weighting = by_name(self.rule, **(self.rule_options or {}))
            else:
                weighting = StaticWeights() if self.weights is None else as_weighting(self.weights, tasks)
            # The trainer does it again; here nothing is loaded yet.
            return weighting.bind(tasks)
        except OSError as error:
            raise RefusedError(
                f"cotbal_weights: expected a file that can be read, got {error.filename}: {error.strerror}"
            ) from error
        except (TypeError, ValueError) as error:
            key = "cotbal_weights" if self.rule is None else "cotbal_rule"
            where = "the names in `dataset`" if self.data is None else f"those in {self.data}"
            raise RefusedError(f"{key}: {error}. Tasks are {where}: {', '.join(tasks)}") from error


def take_options(arguments: MutableMapping[str, Any]) -> Options:
    """Our keys, taken out of the arguments, which LLaMA-Factory would refuse them in.

    Raises:
        RefusedError: a key of ours that there is none of, or two that exclude each other.
    """
    given = {key: arguments.pop(key) for key in list(arguments) if str(key).startswith("cotbal_")}
    for key in given:
        if key not in KEYS:
            raise RefusedError(f"expected one of {', '.join(KEYS)}, got {unknown_task(key, KEYS)}")
    if given.get("cotbal_level", "auto") not in LEVELS:
        raise RefusedError(f"cotbal_level: expected {', '.join(LEVELS)}, got {given['cotbal_level']!r}")
    options = Options(**{key.removeprefix("cotbal_"): value for key, value in given.items()})
    if options.data is not None:
        _refuse_other_data(arguments)
    if options.rule is not None and options.weights is not None:
        raise RefusedError("cotbal_rule: expected no cotbal_weights beside it, got both; leave one out")
    if options.rule is None and options.rule_options is not None:
        raise RefusedError("cotbal_rule_options: expected cotbal_rule beside it, got none; name the rule")
    if options.rule is None and options.weights is None:
        return replace(options, weights=os.environ.get("COTBAL_WEIGHTS") or None)
    return options


def _refuse_other_data(arguments: Mapping[str, Any]) -> None:
    for key, why in _OTHER_DATA.items():
        if arguments.get(key) is not None:
            raise RefusedError(
                f"{key}: expected none beside cotbal_data, got {arguments[key]}: {why}; leave it out, or say "
                f"{key}=null"
            )


def checked_tasks(*parsed: Any) -> tuple[str, ...]:
    """The names in `dataset`, which are the tasks, in their order.

    Args:
        parsed: the dataclasses that LLaMA-Factory makes of its arguments.

    Raises:
        RefusedError: a setting under which the loss cannot be exact, or a dataset that comes twice.
    """
    settings = {key: value for each in parsed for key, value in vars(each).items()}
    if settings["stage"] != "sft":
        raise RefusedError(
            f"stage: expected sft, got {settings['stage']}, whose loss has no tasks; train it with "
            "llamafactory-cli"
        )
    if not settings["do_train"]:
        raise RefusedError(
            "do_train: expected true, got false; evaluation has no weights: llamafactory-cli does it"
        )
    for key, why in _REFUSED.items():
        if settings.get(key):
            raise RefusedError(f"{key}: expected it unset or false, got {settings[key]}: {why}")
    try:
        return task_names(settings["dataset"], "dataset")
    except ValueError as error:
        raise RefusedError(f"{error}; LLaMA-Factory itself would read it once") from error
