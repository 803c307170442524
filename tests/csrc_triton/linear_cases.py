"""Inputs of the linear launcher and row losses to run it with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import torch_path
from csrc_triton.linear_gtw_cross_entropy import LinearResult, RowLoss, linear_gtw_cross_entropy_forward
from csrc_triton.options import LossOptions

IGNORE = -100


@dataclass(frozen=True)
class LinearCase:
    """R rows, of which some are ignored and hold NaN; w_r is 0 there and at one labelled row."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    weights: Tensor

    @classmethod
    def random(
        cls,
        dtype: torch.dtype,
        *,
        n_rows: int = 70,
        n_cols: int = 131,
        width: int = 9,
        share: float = 0.6,
        bias: bool = False,
    ) -> "LinearCase":
        generator = torch.Generator().manual_seed(n_rows + n_cols)
        hidden = torch.randn(n_rows, width, generator=generator).to(dtype)
        weight = torch.randn(n_cols, width, generator=generator).to(dtype)
        labels = torch.randint(n_cols, (n_rows,), generator=generator)
        weights = (0.5 + torch.rand(n_rows, generator=generator)).to(
            torch.float64 if dtype == torch.float64 else torch.float32
        )
        if share < 1:
            labels[torch.rand(n_rows, generator=generator) >= share] = IGNORE
            weights[-1:] = 0.0
        weights[labels == IGNORE] = 0.0
        hidden[weights == 0] = float("nan")
        column = torch.randn(n_cols, generator=generator).to(dtype) if bias else None
        return cls(hidden, weight, column, labels, weights)

    @property
    def denominator(self) -> Tensor:
        return self.weights.sum()

    @property
    def read(self) -> Tensor:
        return self.weights != 0

    def run(self, row_loss: RowLoss | None = None, **options: object) -> LinearResult:
        defaults = {
            "ignore_index": IGNORE,
            "needs_hidden_gradient": True,
            "needs_weight_gradient": True,
            "needs_bias_gradient": self.bias is not None,
            "memory_budget": None,
            "valid_count": None,
        }
        return linear_gtw_cross_entropy_forward(
            self.hidden,
            self.weight,
            self.bias,
            self.labels,
            self.weights,
            row_loss or torch_row_loss(self.denominator),
            **(defaults | options),
        )

    def by_autograd(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """c (R,) and the gradients of sum w c / sum w in float64, from the rows that are read."""
        bias = None if self.bias is None else self.bias.double().requires_grad_()
        hidden, weight = (x.detach().double().requires_grad_() for x in (self.hidden, self.weight))
        logits = torch.nn.functional.linear(hidden[self.read], weight, bias)
        losses = torch.nn.functional.cross_entropy(logits, self.labels[self.read], reduction="none")
        total = (losses * self.weights[self.read].double()).sum() / self.denominator.double()
        total.backward()
        rows = torch.zeros(self.labels.shape, dtype=torch.float64)
        rows[self.read] = losses.detach()
        return rows, hidden.grad, weight.grad, None if bias is None else bias.grad


def torch_row_loss(denominator: Tensor) -> RowLoss:
    def row_loss(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        read = labels != IGNORE
        z = logits.to(weights.dtype, copy=True)
        scale = None if gradient is None else weights / denominator
        losses, correct = torch_path.softmax_losses_(
            z, labels.where(read, 0), scale, LossOptions(), want_correct=True
        )
        # What the launcher must not use once the loss is known.
        logits.fill_(float("nan"))
        if gradient is not None:
            gradient.copy_(z.masked_fill_(~read[:, None], 0))
        return losses.where(read, 0), correct & read

    return row_loss


def triton_row_loss(denominator: Tensor) -> RowLoss:
    """The kernel in the interpreter."""

    def row_loss(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return kernel.gtw_cross_entropy_forward(
            logits,
            labels.contiguous(),
            weights.contiguous(),
            denominator,
            LossOptions(),
            gradient=gradient,
            want_correct=True,
            ignore_index=IGNORE,
        )

    return row_loss
