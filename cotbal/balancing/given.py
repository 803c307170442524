"""A weighting from whatever a user states weights by."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import nn

from cotbal.balancing.base import Weighting
from cotbal.balancing.rule_file import load_rule
from cotbal.balancing.static import StaticWeights
from cotbal.tasks import task_names
from cotbal.weights import TaskWeights

_KINDS = (
    "weights are a file that `cotbal weights` wrote, a mapping from task to weight, TaskWeights or a rule, "
    "as cotbal.balancing.DWA()"
)
Weights = Weighting | Mapping[str, float] | Sequence[float] | str | Path


def as_weighting(weights: Weights, tasks: Iterable[str] | None = None) -> Weighting:
    """The rule that `weights` states.

    Args:
        weights: a `Weighting`, `TaskWeights`, a mapping from task to weight, a file with either or with a
            rule (`save_rule`), or a list of weights (or a file with one) in the order of `tasks`.
        tasks: the names of a list's weights.

    Raises:
        OSError: the file cannot be read.
        TypeError: none of these.
        ValueError: weights that are not valid, a list without its names.

    Example:
        >>> as_weighting([0.5, 2.0], tasks=["VQAv2", "GQA"]).given["GQA"]
        2.0
    """
    if isinstance(weights, Weighting):
        return weights
    if isinstance(weights, str | Path):
        return _from_file(weights, tasks)
    if isinstance(weights, Mapping):
        return StaticWeights(weights)
    if isinstance(weights, list | tuple):
        return StaticWeights(TaskWeights.of_list(weights, tasks))
    if isinstance(weights, type):
        came = f"the class {weights.__name__}; pass {weights.__name__}()"
    elif isinstance(weights, nn.Module):
        name = type(weights).__name__
        came = f"the module {name}; pass cotbal.balancing.TorchJDWeighting({name}(...))"
    else:
        came = f"{type(weights).__name__}; pass a mapping from task to weight"
    raise TypeError(f"weights: expected TaskWeights, a mapping, a list, a path or a Weighting, got {came}")


def _from_file(path: str | Path, tasks: Iterable[str] | None) -> Weighting:
    try:
        rule = load_rule(path)
    except FileNotFoundError as error:
        # In its three parts still: a command line tells the file and the reason apart.
        raise FileNotFoundError(error.errno, f"{error.strerror}; {_KINDS}", str(path)) from error
    return StaticWeights(TaskWeights.load(path, tasks)) if rule is None else rule


def stated_tasks(tasks: Iterable[str] | None, weighting: Weighting) -> tuple[str, ...] | None:
    """The task names in the order of their ids: those given, else those of static weights, else None.

    Example:
        >>> stated_tasks(None, StaticWeights({"VQAv2": 0.5, "GQA": 2.0}))
        ('VQAv2', 'GQA')
    """
    if tasks is not None:
        return task_names(tasks)
    if isinstance(weighting, StaticWeights) and weighting.given is not None:
        return tuple(weighting.given)
    return None
