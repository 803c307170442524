"""One line that puts the balanced loss into a training code, and one that takes it out again."""

import importlib.util
import os
import weakref
from collections.abc import Iterable, Mapping
from types import ModuleType, TracebackType
from typing import Any, Protocol

from cotbal.balancing import Weighting, Weights, as_weighting
from cotbal.integrations.level_names import DENOMINATORS, LEVELS
from cotbal.tasks import task_names

_ENVIRONMENT = "COTBAL_WEIGHTS"


class Patch(Protocol):
    """What an integration put in."""

    def describe(self) -> list[str]:
        """A line on each thing that was changed."""

    def restore(self) -> None:
        """Puts everything back."""


class PatchHandle:
    """What `cotbal.patch` changed, and the way back; as a context manager it takes it off at the end.

    Attributes:
        patch: what the integration put in.
    """

    def __init__(self, target: object, patch: Patch) -> None:
        self.target, self.patch = target, patch
        self._is_on = True

    def unpatch(self) -> None:
        """Puts everything back as it was; a second call does nothing.

        Raises:
            ValueError: something else was put over it since.
        """
        if self._is_on:
            self.patch.restore()
            self._is_on = False
            _handles.remove(weakref.ref(self))
            vars(self.target).pop(_HELD_AS, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PatchHandle":
        # It stands for what it changed in its target, not in a deep copy of that.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Left in a deep copy of the target; what it changed stays in this process.
        return {"target": None, "patch": None, "_is_on": False}

    def __enter__(self) -> "PatchHandle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        if not self._is_on:
            return "<cotbal patch: taken off>"
        return "\n  ".join(["<cotbal patch:", *self.patch.describe()]) + ">"


# The target itself holds its handle, so that the two go together; a list of handles would keep every target.
_HELD_AS = "_cotbal_patch"
_handles: list["weakref.ref[PatchHandle]"] = []


def patch(
    target: Any = None,
    *,
    weights: Weights | None = None,
    tasks: Iterable[str] | Mapping[str, str] | None = None,
    level: str = "auto",
    denominator: str = "step",
) -> PatchHandle:
    """Put the task-weighted loss of Eq. 2 into LLaVA's training code, a Trainer or a model.

    Args:
        target: None or the module `llava`: LLaVA's own `train()`, whenever it is called afterwards. A
            `transformers.Trainer`: that trainer. A transformers model: its loss, for a loop of your own.
        weights: `TaskWeights`, a mapping from task to weight, a list in the order of `tasks` or of the
            Trainer's `TaskCollator`, a file with any of these, or a rule of `cotbal.balancing`. By default
            the file that the environment variable COTBAL_WEIGHTS names, else all 1 with the curves of each
            task.
        tasks: the names in the order of their ids, by default those of the weights, else of the data (stated
            for a model, which sees numbers alone); or a mapping from file to task, for records that do not
            name theirs.
        level: "linear" computes the loss inside `lm_head`'s call and never holds all logits, "logits" works
            with any head, "auto" takes linear where it is exact.
        denominator: "step" counts the tokens of the whole optimizer step on all ranks (Eq. 2), "world" those
            of a micro-batch on all ranks, "micro" those of a micro-batch on one device.

    Returns:
        A handle with `unpatch()`; its `repr` says what was changed and why each level.

    Raises:
        ImportError: no target was given and there is no LLaVA.
        TypeError: a target or weights of a kind that is not known.
        ValueError: it is patched already, or a setting that cannot be right, with what to do.

    Example:
        LLaVA's own training, and a model in a loop of one's own:

        >>> import cotbal
        >>> cotbal.patch(weights="weights.json")  # doctest: +SKIP
        >>> from llava.train.train import train  # doctest: +SKIP
        >>> train()  # doctest: +SKIP

        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=2, **sizes)).train()
        >>> handle = cotbal.patch(model, weights=[0.8, 1.2], tasks=["VQAv2", "GQA"], denominator="micro")
        >>> ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        >>> loss = model(input_ids=ids, labels=ids, cotbal_task_ids=torch.tensor([1, 0])).loss
        >>> handle.patch.task_logs()["task_tokens/GQA"]
        2.0
        >>> handle.unpatch()
    """
    if level not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator: expected one of {', '.join(DENOMINATORS)}, got {denominator!r}")
    if target is None:
        target = _llava()
    elif isinstance(target, ModuleType) and target.__name__.endswith(".train.train"):
        target = importlib.import_module(target.__name__.removesuffix(".train.train"))
    if any(handle.target is target for handle in _live()):
        raise ValueError("target: expected one that is not patched, got a patched one; call unpatch() first")
    if not (tasks is None or isinstance(tasks, Mapping)):
        tasks = task_names(tasks)
    weighting = _weighting(weights, _names(target, tasks))
    options = {"weighting": weighting, "tasks": tasks, "level": level, "denominator": denominator}
    handle = PatchHandle(target, _put_in(target, options))
    _handles.append(weakref.ref(handle, _handles.remove))
    vars(target)[_HELD_AS] = handle
    return handle


def unpatch() -> None:
    """Take off everything that `patch` put in, the last first.

    Example:
        >>> import cotbal
        >>> cotbal.unpatch()
    """
    for handle in reversed(_live()):
        handle.unpatch()


def _live() -> list[PatchHandle]:
    found = (reference() for reference in _handles)
    return [handle for handle in found if handle is not None]


def _put_in(target: Any, options: dict[str, Any]) -> Patch:
    if isinstance(target, ModuleType):
        from cotbal.integrations.llava import patch_llava

        return patch_llava(target, **options)
    from cotbal.integrations.huggingface.patching import patch_huggingface

    return patch_huggingface(target, **options)


def _llava() -> ModuleType:
    if importlib.util.find_spec("llava") is None:
        raise ImportError(
            "cotbal.patch() found no LLaVA: install it (pip install --no-deps llava-torch, or LLaVA's own "
            "repository), or pass what to patch: a Trainer or a model",
            name="llava",
        )
    from cotbal.integrations.llava.versions import llava_package

    return llava_package()


def _names(target: Any, tasks: Iterable[str] | Mapping[str, str] | None) -> Iterable[str] | None:
    """The names of weights in a list: those stated, else those of the Trainer's `TaskCollator`."""
    if tasks is not None or not hasattr(target, "data_collator"):
        return None if isinstance(tasks, Mapping) else tasks
    from cotbal.integrations.huggingface.collator import collator_tasks

    return collator_tasks(target.data_collator)


def _weighting(weights: Weights | None, names: Iterable[str] | None) -> Weighting | None:
    chosen = os.environ.get(_ENVIRONMENT) or None if weights is None else weights
    return None if chosen is None else as_weighting(chosen, names)
