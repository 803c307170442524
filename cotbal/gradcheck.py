"""Holds an implementation of the loss against the reference in float64, beside plain torch at its dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cotbal._float64 import as_float64
from cotbal.losses import gtw_cross_entropy, linear_gtw_cross_entropy
from csrc_triton.reference import accumulation_dtype

# Units in the last place of the largest entry. On logits one for the order of a sum and one for an
# exponential; the products with the vocabulary add two sums of their own.
_ULPS = {"logits": 2.0, "linear": 4.0}
# The reference's own error in float64, relative to the largest input: a thousand roundings.
_REFERENCE_ROUNDING = 2.0**-42
# Options that change how a loss is computed, not what it is.
_HOW = ("impl", "memory_budget", "valid_count", "accumulate_weight_grad", "inplace")


@dataclass(frozen=True)
class GradientReport:
    """Largest absolute errors against float64 of "loss" and "logits", or of "loss", "hidden" and "weight".

    Attributes:
        errors: of the implementation that was checked.
        plain: of plain torch at the same dtype: float32 cross-entropy of the upcast logits, weighted outside.
            Where that is NaN, as where no row is valid, it allows nothing.
        tolerance: how far an error may exceed plain torch's: 2 units in the last place of the largest entry,
            4 for the linear loss.
    """

    errors: dict[str, float]
    plain: dict[str, float]
    tolerance: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether every error is at most plain torch's plus the tolerance (an error of NaN is not)."""
        return all(self.errors[name] <= self.plain[name] + self.tolerance[name] for name in self.errors)

    def __str__(self) -> str:
        lines = [f"{'output':<8} {'error':>10} {'plain torch':>12} {'tolerance':>10}"]
        for name, error in self.errors.items():
            lines.append(f"{name:<8} {error:>10.3g} {self.plain[name]:>12.3g} {self.tolerance[name]:>10.3g}")
        return "\n".join(lines)


def check_gradients(
    fn: Callable[..., Any],
    *features: Tensor,
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | None = None,
    upstream: float = 1.0,
    raise_exception: bool = True,
    **options: Any,
) -> GradientReport:
    """Returns how far loss and gradients of `fn` are from the reference in float64, beside plain torch's.

    Args:
        fn: called as `fn(*features, labels, task_ids, task_weights, **options)`; returns the loss.
        features: the logits (..., V), or hidden states (..., D) and weight (V, D), in the dtype to check.
        labels: (...) int64.
        task_ids: as in `gtw_cross_entropy`.
        task_weights: as in `gtw_cross_entropy`.
        upstream: the gradient that reaches the loss from above.
        raise_exception: whether a failed check raises.
        options: further arguments; those that change the loss are given to the reference too.

    Raises:
        AssertionError: an error is larger than plain torch's plus the tolerance; the message is the table.

    Example:
        >>> import torch, cotbal
        >>> logits, labels = torch.randn(8, 50, dtype=torch.bfloat16), torch.randint(50, (8,))
        >>> cotbal.check_gradients(cotbal.gtw_cross_entropy, logits, labels=labels).ok
        True
    """
    names = ("logits",) if len(features) == 1 else ("hidden", "weight")
    # Else the three backward passes would add to the gradients of a bias or of task weights that are trained.
    features = tuple(map(_detached, features))
    options = {name: _detached(value) for name, value in options.items()}
    tasks = (labels, task_ids, _detached(task_weights))
    shared = {name: value for name, value in options.items() if name not in _HOW}
    checked = _run(fn, features, tasks, upstream, options)
    exact_fn = gtw_cross_entropy if len(features) == 1 else linear_gtw_cross_entropy
    doubles = tuple(as_float64(feature) for feature in features)
    bias = {} if options.get("bias") is None else {"bias": as_float64(options["bias"])}
    home = doubles[0].device
    given = {name: _on(home, value) for name, value in shared.items()} | bias
    there = tuple(_on(home, each) for each in tasks)
    exact = _run(exact_fn, doubles, there, upstream, given | {"impl": "reference"})
    plain = _run(_plain_torch, features, tasks, upstream, shared)
    outputs = ("loss", *names)
    # NaN of plain torch is no error to allow for.
    differences = [[got - want for got, want in zip(run, exact, strict=True)] for run in (checked, plain)]
    errors = dict(zip(outputs, map(_largest, differences[0]), strict=True))
    plain_errors = dict(zip(outputs, map(_largest_finite, differences[1]), strict=True))
    # A logit of -inf, or NaN in an ignored row, is no size.
    sizes = map(_largest_finite, features)
    rounding = _REFERENCE_ROUNDING * max(1.0, abs(upstream), *sizes)
    dtypes = (accumulation_dtype(features[0].dtype), *(feature.dtype for feature in features))
    ulps = _ULPS["logits" if len(features) == 1 else "linear"]
    # Below its smallest normal number a dtype has no more relative precision.
    tolerance = {
        name: ulps * torch.finfo(dtype).eps * max(_largest(want), torch.finfo(dtype).tiny) + rounding
        for name, dtype, want in zip(outputs, dtypes, exact, strict=True)
    }
    report = GradientReport(errors, plain_errors, tolerance)
    if raise_exception and not report.ok:
        raise AssertionError(f"gradients are further from float64 than plain torch's:\n{report}")
    return report


def _run(
    fn: Callable[..., Any],
    features: tuple[Tensor, ...],
    tasks: tuple[Tensor, Tensor | None, Tensor | None],
    upstream: float,
    options: dict[str, Any],
) -> list[Tensor]:
    """Loss and gradients of one implementation, in float64; 0 where it has lost one."""
    leaves = [feature.detach().clone().requires_grad_() for feature in features]
    with torch.enable_grad():
        # Written over: a leaf may not be.
        given = [leaf.clone() for leaf in leaves] if options.get("inplace") else leaves
        result = fn(*given, *tasks, **options)
    loss = result[0] if isinstance(result, tuple) else result
    if loss.requires_grad:
        loss.backward(torch.full_like(loss, upstream))
    gradients = (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)
    return [as_float64(loss.detach()), *(as_float64(gradient) for gradient in gradients)]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _plain_torch(
    *arguments: Any, shift: bool = False, ignore_index: int = -100, bias: Tensor | None = None, **options: Any
) -> Tensor:
    """The loss as one writes it with `F.cross_entropy`: upcast, reduction="none", weights outside."""
    *features, labels, task_ids, task_weights = arguments
    logits = features[0] if len(features) == 1 else F.linear(features[0], features[1], bias)
    logits = logits.float() if logits.dtype != torch.float64 else logits
    weights = torch.ones_like(labels, dtype=logits.dtype)
    if task_weights is not None:
        ids = task_ids.reshape(task_ids.shape + (1,) * (labels.ndim - task_ids.ndim))
        # That of an ignored row may be anything.
        ids = ids.where(labels != ignore_index, 0)
        weights = weights * task_weights.to(logits.dtype)[ids]
    weights = weights if options.get("token_weights") is None else weights * options["token_weights"]
    if shift:
        logits, labels, weights = logits[..., :-1, :], labels[..., 1:], weights[..., 1:]
    flat = labels.reshape(-1)
    losses, mass = _plain_rows(logits.reshape(-1, logits.shape[-1]), flat, ignore_index, options)
    weights = weights.reshape(-1) * (flat != ignore_index)
    reduction, denominator = options.get("reduction", "weighted_mean"), options.get("denominator")
    if reduction == "none":
        rows = (losses * weights).reshape(labels.shape)
        return F.pad(rows, (0, 1)) if shift else rows
    total = (losses * weights).sum()
    if reduction == "sum":
        return total
    return total / ((weights * mass).sum() if denominator is None else denominator)


def _plain_rows(
    logits: Tensor, labels: Tensor, ignore_index: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Row losses and what each row of weight 1 adds to the denominator, both (R,)."""
    softcap, class_weights = options.get("softcap"), options.get("class_weights")
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(
        logits,
        labels,
        None if class_weights is None else class_weights.to(logits.dtype),
        reduction="none",
        ignore_index=ignore_index,
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    losses = losses + options.get("z_loss", 0.0) * torch.logsumexp(logits, dim=1) ** 2
    if class_weights is None:
        return losses, torch.ones_like(losses)
    return losses, class_weights.to(losses.dtype)[labels.where(labels != ignore_index, 0)]


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _largest_finite(values: Tensor) -> float:
    return _largest(values[values.isfinite()])
