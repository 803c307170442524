"""dW added to `weight.grad` in the forward pass: what that needs of a weight, and whether it stays there."""

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor

from cotbal._arguments import RowArguments
from csrc_triton.checks import require
from csrc_triton.task_stats import weighted_losses


def check_accumulation(weight: Tensor, reduction: str, impl: str) -> None:
    """Checks what `accumulate_weight_grad` needs."""
    if torch.compiler.is_compiling():
        raise ValueError("accumulate_weight_grad=True: not under torch.compile; leave it out there")
    if torch._C._current_graph_task_id() >= 0:
        raise ValueError(
            "accumulate_weight_grad=True: not in a checkpoint, whose second forward pass would add dW again; "
            "leave it out there"
        )
    if not weight.is_leaf:
        raise ValueError("accumulate_weight_grad=True: expected a parameter as weight, got a computed tensor")
    if weight._backward_hooks:
        raise ValueError(
            "accumulate_weight_grad=True: expected a weight without hooks of register_hook, which would be "
            f"given no gradient, got {len(weight._backward_hooks)}; use register_post_accumulate_grad_hook, "
            "or leave it out"
        )
    if getattr(weight, "_post_accumulate_grad_hooks", None) and not _calls_hooks_without_gradient():
        raise ValueError(
            "accumulate_weight_grad=True: expected a weight without hooks of "
            f"register_post_accumulate_grad_hook, which torch {torch.__version__} calls only for a gradient "
            "of a backward pass; leave it out, or take a newer torch"
        )
    if reduction == "none" or impl == "reference":
        raise ValueError(
            'accumulate_weight_grad=True: not with reduction="none" or impl="reference"; leave it out there'
        )


def label_of_most(arguments: RowArguments, weight: Tensor, losses: Tensor) -> Tensor:
    """The label whose row of dW can least be 0: that of the largest w_r c_r, (1,); (0,) where no row is."""
    rows = arguments.rows(weight.shape[0], losses)
    row = weighted_losses(losses, rows.weights).topk(min(1, losses.numel())).indices
    return (rows.labels * rows.valid).index_select(0, row)


class Added:
    """What a loss has added to `weight.grad`: without it the head would not be trained.

    Args:
        gradient_of: gives `weight.grad`.
        to: (V, D), `weight.grad` in the forward pass.
        label: (1,), one whose row of dW can least come to 0 by itself: the whole would take a pass over the
            head. (0,) where there is none.
    """

    _all: ClassVar["WeakSet[Added]"] = WeakSet()

    def __init__(self, gradient_of: Callable[[], Tensor | None], to: Tensor, label: Tensor) -> None:
        self._gradient_of, self._to, self._label = gradient_of, to, label
        self._had_values = self._row().any()
        self._is_lost = torch.zeros_like(self._had_values)
        Added._all.add(self)

    def _row(self) -> Tensor:
        return self._to.index_select(0, self._label)

    def _look(self) -> None:
        self._is_lost = self._is_lost | (self._had_values & ~self._row().any())

    @classmethod
    def look_at_those_in(cls, gradient: Tensor) -> None:
        """Before another loss adds to the same tensor, after which nothing could be seen."""
        for each in list(cls._all):
            if each._to.data_ptr() == gradient.data_ptr():
                each._look()

    def refuse_lost(self) -> None:
        """Raises where `weight.grad` no longer has the dW of the forward pass."""
        expected = (
            "accumulate_weight_grad=True: expected weight.grad to keep the dW that the loss has added until "
            "its backward pass; call zero_grad before the loss"
        )
        gradient = self._gradient_of()
        if gradient is None or gradient.data_ptr() != self._to.data_ptr():
            raise RuntimeError(f"{expected}, got {'None' if gradient is None else 'another tensor'}")
        self._look()
        require(~self._is_lost, expected, self._row().abs().sum())


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


@cache
def _calls_hooks_without_gradient() -> bool:
    """Whether a leaf's hooks are called where a backward pass gives it None; found out once."""
    leaf = torch.zeros(1, requires_grad=True)
    calls: list[Tensor] = []
    leaf.register_post_accumulate_grad_hook(calls.append)
    with torch.enable_grad():
        _WithoutGradient.apply(leaf).backward()
    return bool(calls)
