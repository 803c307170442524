"""Random options of the losses, and the formulas of the loss in float64, written a second time for the tests.

Nothing is shared with `csrc_triton.reference`: an error there would have to be made twice. Autograd
differentiates it.
"""

from dataclasses import dataclass, fields, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.laws.cases import IGNORE, Case, cases
from tests.tolerances import FLOOR, LOSS, RELATIVE


@dataclass(frozen=True)
class Options:
    """Keyword options that both losses take."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    class_weights: Tensor | None = None
    reduction: str = "weighted_mean"
    denominator: Tensor | None = None
    shift: bool = False
    ignore_index: int = IGNORE

    @property
    def arguments(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def replace(self, **changes: object) -> "Options":
        return replace(self, **changes)


@st.composite
def option_cases(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Case, Options]:
    """A case and any combination of options; the first and last class, which every case uses, have weight."""
    case = draw(cases(dtype))
    weight_dtype, n_cols = case.task_weights.dtype, case.logits.shape[-1]
    reduction = draw(st.sampled_from(["weighted_mean", "weighted_mean", "sum", "none"]))
    has_denominator = reduction == "weighted_mean" and draw(st.booleans())
    # A class of the vocabulary may be what is ignored, if others remain.
    ignore_index = draw(st.sampled_from([IGNORE, IGNORE, -1, 1 if n_cols > 2 else n_cols]))
    drawn = Options(
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        z_loss=draw(st.sampled_from([0.0, 1e-3, 0.1])),
        softcap=draw(st.sampled_from([None, 2.0, 30.0, 1e4])),
        class_weights=draw(class_weights(n_cols, weight_dtype)) if draw(st.booleans()) else None,
        reduction=reduction,
        denominator=torch.tensor(draw(st.sampled_from([0.5, 7.25])), dtype=weight_dtype)
        if has_denominator
        else None,
        shift=draw(st.booleans()),
        ignore_index=ignore_index,
    )
    return case.replace(labels=case.labels.masked_fill(case.labels == IGNORE, ignore_index)), drawn


@st.composite
def class_weights(draw: st.DrawFn, n_cols: int, dtype: torch.dtype) -> Tensor:
    """(V,) in 0.25..3, some of them 0; the first and the last class, which every case uses, are not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weights = (0.25 + 2.75 * torch.rand(n_cols, generator=generator)).to(dtype)
    weights[1:-1] *= torch.rand(n_cols - 2, generator=generator) >= draw(st.sampled_from([0.0, 0.3]))
    return weights


@dataclass(frozen=True)
class Exact:
    """The loss in float64 with its graph, and what the roundings of an implementation are relative to.

    Attributes:
        loss: 0-d, or (B, S) for "none".
        rows: (B, S) c_r, 0 at rows that are not read.
        read: (B, S) bool, the valid rows whose loss is needed.
        correct: (B, S) bool, top-1 correct rows among these.
        size: (B, S), the sum of the absolute values that make up c_r, >= |c_r|.
        slope: (B, S, V), the same for dc_r/dlogits.
        scale: (B, S), what multiplies c_r in the loss.
        divisor: 0-d, the denominator (1 for "sum" and "none").
        label_weights: (B, S), cw[y_r], 0 at ignored rows.
        is_mean: whether the divisor is made of the weights and not a constant.
    """

    loss: Tensor
    rows: Tensor
    read: Tensor
    correct: Tensor
    size: Tensor
    slope: Tensor
    scale: Tensor
    divisor: Tensor
    label_weights: Tensor
    is_mean: bool


def exact(logits: Tensor, case: Case, o: Options, task_weights: Tensor) -> Exact:
    """The loss of float64 `logits` (B, S, V) under float64 `task_weights` (N,); either may require grad."""
    labels, task_ids, tokens = case.labels, case.task_ids, case.token_weights
    tokens = torch.ones(labels.shape, dtype=torch.float64) if tokens is None else tokens.double()
    if o.shift:
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], o.ignore_index)], 1)
        task_ids, tokens = task_ids.roll(-1, 1), tokens.roll(-1, 1)
    valid = labels != o.ignore_index
    task_ids = task_ids.where(valid, 0)
    weights = tokens * task_weights[task_ids] * valid
    # The gradient of a weight needs the loss of its rows even where the weight is 0.
    read = valid & (tokens != 0) & ((weights != 0) | task_weights.requires_grad)
    rows, correct = torch.zeros_like(tokens), torch.zeros_like(valid)
    size, slope = torch.zeros_like(tokens), torch.zeros(logits.shape, dtype=torch.float64)
    losses, size[read], slope[read] = _row_losses(logits[read], labels[read], o)
    rows = rows.masked_scatter(read, losses)
    correct[read] = logits[read].argmax(1) == labels[read]
    class_weights = _class_weights(o, logits.shape[-1])
    label_weights = class_weights[labels.where(valid, 0)] * valid
    is_mean = o.reduction == "weighted_mean" and o.denominator is None
    given = torch.ones((), dtype=torch.float64) if o.denominator is None else o.denominator.double()
    divisor = (weights * label_weights).sum() if is_mean else given
    loss = weights * rows if o.reduction == "none" else (weights * rows).sum() / divisor
    scale = (weights / divisor).detach()
    return Exact(
        loss, rows.detach(), read, correct, size, slope, scale, divisor.detach(), label_weights, is_mean
    )


def _class_weights(o: Options, n_cols: int) -> Tensor:
    return torch.ones(n_cols, dtype=torch.float64) if o.class_weights is None else o.class_weights.double()


def _row_losses(x: Tensor, labels: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    """c_r (R,), its size (R,) and its slope (R, V), of the rows `x` (R, V)."""
    n_cols, eps = x.shape[1], o.label_smoothing
    z = x if o.softcap is None else o.softcap * torch.tanh(x / o.softcap)
    lse, weights = z.logsumexp(1), _class_weights(o, n_cols)
    of_label = weights[labels] * (1 - eps)
    # A class of weight 0 adds nothing, not 0 * inf.
    smoothing = torch.where(weights > 0, weights * (lse[:, None] - z), 0).sum(1) * eps / n_cols
    own = torch.where(of_label > 0, of_label * (lse - z.gather(1, labels[:, None])[:, 0]), 0)
    c = own + smoothing + o.z_loss * lse**2
    with torch.no_grad():
        reach = torch.maximum(z.masked_fill(z.isinf(), 0).abs().amax(1), lse.abs())
        of_all = eps / n_cols * weights.sum()
        size = 2 * (of_label + of_all) * reach + o.z_loss * reach**2
        slope = z.softmax(1) * (of_label + of_all + 2 * o.z_loss * (1 + lse.abs()))[:, None]
        slope += eps / n_cols * weights
        slope.scatter_add_(1, labels[:, None], of_label[:, None])
        # z is rounded before it is exponentiated.
        slope *= 1 if o.softcap is None else 1 + reach[:, None]
    return c, size, slope


@dataclass(frozen=True)
class Allowed:
    """How far an implementation may be from `exact`, by its dtype.

    `noise` is what the logits' own roundings are relative to where the implementation makes them: the largest
    sum of |hidden| |weight|. It is 0 where the logits are given.
    """

    exact: Exact
    upstream: Tensor
    dtype: torch.dtype
    noise: float = 0.0

    @property
    def _row_errors(self) -> Tensor:
        """Of c_r: (B, S)."""
        made = RELATIVE[self.dtype] * self.noise if self.noise else 0.0
        return LOSS[self.dtype] * self.exact.size + made * self.exact.slope.sum(-1)

    def loss(self) -> float:
        errors = self.exact.scale * self._row_errors
        return float(errors.max() if self.exact.loss.ndim else errors.sum())

    def slopes(self) -> Tensor:
        """Of the gradient in the logits: (B, S, V)."""
        relative = RELATIVE[self.dtype] * (1 + 2 * self.noise) + LOSS[self.dtype]
        if self.dtype.itemsize == 2:
            # What was rounded when it was formed is rounded once more where it is scaled.
            relative += torch.where(self.upstream == 1, 0, torch.finfo(self.dtype).eps / 2)[..., None]
        scale = (self.exact.scale * self.upstream.abs())[..., None]
        return relative * scale * self.exact.slope + FLOOR[self.dtype]

    def task_weights(self) -> float:
        """Of the gradient in the task weights, whose two terms may cancel."""
        terms = self._row_errors.sum() + LOSS[self.dtype] * self.exact.rows.abs().sum()
        if self.exact.is_mean:
            shared = LOSS[self.dtype] * self.exact.loss.detach().abs() + self.loss()
            terms = terms + shared * self.exact.label_weights.sum()
        return float(2 * terms * self.upstream.abs().max() / self.exact.divisor)

    def loss_sums(self) -> float:
        return float(2 * self._row_errors.sum())
