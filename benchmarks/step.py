"""One step of a loss, forward and backward, and how far it is from float64."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import IGNORE, Case, LossInputs, make_inputs, unweighted
from benchmarks.provider import Provider

# Bytes of float64 logits alive at once in the reference.
_REFERENCE_BYTES = 2**29


class _FromModel(torch.autograd.Function):
    """Hands a leaf on as a model's output: not a leaf, so that a loss may overwrite it; costs no copy."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def step(provider: Provider, inputs: LossInputs) -> tuple[Tensor, ...]:
    """Returns the loss and the gradient of each feature that needs one."""
    features = tuple(
        _FromModel.apply(feature) if place == 0 else feature for place, feature in enumerate(inputs.features)
    )
    loss = provider.run(replace(inputs, features=features))
    wanted = [feature for feature in inputs.features if feature.requires_grad]
    return loss.detach(), *torch.autograd.grad(loss, wanted, grad_outputs=inputs.upstream)


@dataclass(frozen=True)
class Error:
    """Largest absolute error of an output, and the largest entry of the same output in float64."""

    absolute: float
    largest: float

    def ulp(self, dtype: torch.dtype) -> float:
        """A unit in the last place of the largest entry in `dtype`."""
        info = torch.finfo(dtype)
        return info.eps * 2.0 ** math.floor(math.log2(max(self.largest, info.tiny)))


class Reference:
    """Loss and gradients of a case in float64, a block of rows at a time.

    At the level of logits the gradient is never held: it is compared block by block.
    """

    def __init__(self, case: Case, device: torch.device | str = "cpu", *, weighted: bool = True) -> None:
        made = make_inputs(case, device)
        self._inputs = made if weighted else unweighted(made)
        self._valid = torch.nonzero(made.labels != IGNORE)[:, 0]
        self._block = max(1, _REFERENCE_BYTES // (8 * case.vocabulary))
        self._linear = self._linear_gradients() if case.level == "linear" else None

    @torch.no_grad()
    def errors(self, got: tuple[Tensor, ...]) -> dict[str, Error]:
        """By output, the error of what `step` returned; NaN anywhere gives an error of NaN."""
        if self._linear is not None:
            pairs = zip(got, self._linear, strict=False)
            # One copy of a head's gradient: with three, a GPU of 16 GiB has no room for the check.
            copies = ((g.to(want.dtype, copy=True), want) for g, want in pairs)
            found = [Error(_largest(g.sub_(want)), _largest(want)) for g, want in copies]
        else:
            found = self._logits_errors(*got)
        return dict(zip(self._inputs.case.outputs, found, strict=True))

    def _logits_errors(self, loss: Tensor, gradient: Tensor) -> list[Error]:
        ignored = self._inputs.labels == IGNORE
        # Ignored rows are exactly 0; a norm finds any entry, NaN included, without a copy.
        norms = torch.linalg.vector_norm(gradient, torch.inf, dim=1).double()
        worst = torch.where(ignored, norms, torch.zeros_like(norms)).amax()
        largest = torch.zeros_like(worst)
        total = torch.zeros_like(worst)
        (logits,) = self._inputs.features
        for rows in self._valid.split(self._block):
            part, want = self._row_gradients(logits[rows].double(), rows)
            total += part
            want *= self._inputs.upstream
            # torch.maximum keeps NaN.
            worst = torch.maximum(worst, (gradient[rows].double() - want).abs().amax())
            largest = torch.maximum(largest, want.abs().amax())
        return [Error(_largest(loss.double() - total), _largest(total)), Error(float(worst), float(largest))]

    @torch.no_grad()
    def _linear_gradients(self) -> tuple[Tensor, ...]:
        hidden, head = self._inputs.features
        wide = head.double()
        total = torch.zeros((), dtype=torch.float64, device=head.device)
        hidden_gradient = torch.zeros_like(hidden, dtype=torch.float64)
        head_gradient = torch.zeros_like(wide) if head.requires_grad else None
        for rows in self._valid.split(self._block):
            own = hidden[rows].double()
            part, gradient = self._row_gradients(own @ wide.t(), rows)
            total += part
            gradient *= self._inputs.upstream
            hidden_gradient[rows] = gradient @ wide
            if head_gradient is not None:
                head_gradient.addmm_(gradient.t(), own)
        return (total, hidden_gradient) if head_gradient is None else (total, hidden_gradient, head_gradient)

    def _row_gradients(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the weighted losses of `rows`, and its gradient; overwrites `z`."""
        column, scale = self._inputs.labels[rows][:, None], self._inputs.row_scale[rows].double()[:, None]
        lse = z.logsumexp(dim=1, keepdim=True)
        total = (scale * (lse - z.gather(1, column))).sum()
        gradient = z.sub_(lse).exp_().mul_(scale)
        return total, gradient.scatter_add_(1, column, -scale)


def _largest(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, torch.inf))


def check(provider: Provider, case: Case, device: torch.device | str = "cpu") -> dict[str, Error]:
    """The errors of one step of `provider`, on fresh inputs: some losses overwrite theirs."""
    got = step(provider, make_inputs(case, device))
    return Reference(case, device, weighted=provider.weighted).errors(got)
