"""Autograd functions of the GTW loss, and which implementation runs them."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csrc_triton import torch_path
from csrc_triton.linear_gtw_cross_entropy import (
    ChunkLoss,
    linear_gtw_cross_entropy_forward,
    torch_chunk_loss,
)
from csrc_triton.rows import Rows, scale_of

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")
# Found out once: a search of the path for every loss would cost more than small losses do.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class LossPlan:
    """How a loss is computed, the same for both levels.

    Attributes:
        impl: "triton" or "torch".
        reduction: "weighted_mean", "sum" or "none".
        want_correct: whether top-1 correctness is wanted.
        grad_enabled: whether autograd was recording when the loss was called.
        memory_budget: bytes of logits alive at once, "min" or None (linear level only).
    """

    impl: str
    reduction: str
    want_correct: bool
    grad_enabled: bool
    memory_budget: int | str | None = None


def choose_implementation(impl: str, logits_like: Tensor) -> str:
    """The implementation for `impl`, the logits' dtype and device; COTBAL_IMPL takes the place of "auto".

    Raises:
        ValueError: an unknown name, or "triton" where it cannot run.
    """
    if impl == "auto":
        impl = os.environ.get("COTBAL_IMPL", "auto")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl: expected one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    problem = _why_not_triton(logits_like)
    if impl == "auto":
        return "triton" if logits_like.is_cuda and problem is None else "torch"
    if impl == "triton" and problem is not None:
        raise ValueError(f'impl="triton": {problem}; use impl="auto"')
    return impl


def _why_not_triton(tensor: Tensor) -> str | None:
    if not _HAS_TRITON:
        return "triton is not installed"
    if tensor.dtype not in _TRITON_DTYPES:
        return f"the kernel takes float16, bfloat16 and float32, got {tensor.dtype}"
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the kernel needs a CUDA tensor, got one on {tensor.device}"
    return None


def reduce_losses(losses: Tensor, weights: Tensor, denominator: Tensor | None, reduction: str) -> Tensor:
    """Eq. 2 from c (R,) and w (R,): 0-d, or w_r c_r (R,) for "none"; 0 where the denominator is 0."""
    # A row that was not read has c = 0 and w = 0: no 0 * inf can arise.
    weighted = weights * losses
    if reduction == "none":
        return weighted
    total = weighted.sum()
    if denominator is None:
        return total
    return torch.where(denominator > 0, total / denominator, torch.zeros_like(total))


class GTWCrossEntropy(torch.autograd.Function):
    """The loss on logits (R, V); its gradient is formed in the forward pass and scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Rows, weights: Tensor, denominator: Tensor | None, plan: LossPlan
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (loss, c (R,), correct (R,)); the last two carry no gradient."""
        needs_gradient = plan.grad_enabled and ctx.needs_input_grad[0]
        if plan.impl == "triton":
            from csrc_triton import gtw_cross_entropy as kernel

            gradient = (
                torch.empty_like(logits, memory_format=torch.contiguous_format) if needs_gradient else None
            )
            losses, correct = kernel.gtw_cross_entropy_forward(
                logits, rows, denominator, gradient=gradient, want_correct=plan.want_correct
            )
        else:
            scale = scale_of(weights, denominator) if needs_gradient else None
            losses, correct, gradient = torch_path.gtw_cross_entropy_forward(
                logits, rows.labels, weights, scale, want_correct=plan.want_correct
            )
        ctx.gradient, ctx.in_place = gradient, plan.impl == "triton"
        ctx.mark_non_differentiable(losses, correct)
        return reduce_losses(losses, weights, denominator, plan.reduction), losses, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradient of the forward pass by the upstream gradient, 0-d or (R,)."""
        _refuse_second_derivative()
        if ctx.gradient is None:
            raise RuntimeError(
                "the gradient of this loss was already handed out: the kernel scales it in place, so a graph "
                'can be run backward once; call the loss again, or use impl="torch" with retain_graph=True'
            )
        if ctx.in_place:
            from csrc_triton import gtw_cross_entropy as kernel

            gradient, ctx.gradient = kernel.scale_rows_(ctx.gradient, upstream), None
        else:
            gradient = _scaled(ctx.gradient, upstream if upstream.ndim == 0 else upstream[:, None])
        return gradient, None, None, None, None


class LinearGTWCrossEntropy(torch.autograd.Function):
    """The loss on hidden @ weight.T in chunks; both gradients are formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        rows: Rows,
        weights: Tensor,
        denominator: Tensor | None,
        plan: LossPlan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (loss, c (R,), correct (R,)); the last two carry no gradient."""
        result = linear_gtw_cross_entropy_forward(
            hidden,
            weight,
            rows,
            weights,
            scale_of(weights, denominator),
            _triton_chunk_loss(denominator, plan)
            if plan.impl == "triton"
            else torch_chunk_loss(plan.want_correct),
            needs_hidden_gradient=plan.grad_enabled and ctx.needs_input_grad[0],
            needs_weight_gradient=plan.grad_enabled and ctx.needs_input_grad[1],
            memory_budget=plan.memory_budget,
        )
        ctx.gradients = (result.hidden_gradient, result.weight_gradient)
        ctx.mark_non_differentiable(result.losses, result.correct)
        loss = reduce_losses(result.losses, weights, denominator, plan.reduction)
        return loss, result.losses, result.correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Scales dX (R, D) and dW (V, D) by the upstream gradient; nothing of size R x V is touched."""
        _refuse_second_derivative()
        scaled = (None if gradient is None else _scaled(gradient, upstream) for gradient in ctx.gradients)
        return *scaled, None, None, None, None


def _triton_chunk_loss(denominator: Tensor | None, plan: LossPlan) -> ChunkLoss:
    from csrc_triton import gtw_cross_entropy as kernel

    def chunk_loss(logits: Tensor, rows: Rows, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        target = None if scale is None else logits
        return kernel.gtw_cross_entropy_forward(
            logits, rows, denominator, gradient=target, want_correct=plan.want_correct
        )

    return chunk_loss


def _refuse_second_derivative() -> None:
    # Autograd records inside backward exactly under create_graph=True; it would record a constant here.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: this loss has no second derivative; "
            'use impl="reference", which autograd differentiates'
        )


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    # Reading the factor is free on a CPU and a synchronisation on a GPU.
    if factor.ndim == 0 and not factor.is_cuda and factor.item() == 1:
        return gradient
    return (gradient * factor).to(gradient.dtype)
