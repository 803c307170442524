"""Checks what a loss is given and lays it out as rows; an error says what was expected and what came.

Only shapes, dtypes and plain numbers: what is in the tensors is checked where the operators run.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from cotbal._arguments import RowArguments
from csrc_triton.reference import accumulation_dtype

_REDUCTIONS = ("weighted_mean", "sum", "none")
_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WEIGHT_DTYPES = (torch.float32, torch.float64)


def row_arguments(
    features: Tensor,
    n_cols: int,
    labels: Tensor,
    task_ids: Tensor | None,
    task_weights: Tensor | None,
    *,
    token_weights: Tensor | None,
    class_weights: Tensor | None,
    denominator: Tensor | None,
    reduction: str,
    ignore_index: int,
    shift: bool,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    return_stats: bool,
    impl: str,
) -> RowArguments:
    """Returns the arguments as rows, one per label, for `features`: logits (..., V) or hidden (..., D).

    Raises:
        ValueError: a shape, a device or an option that cannot be right.
        TypeError: a wrong dtype.
    """
    check_tensors(labels=labels)
    weights = {"token_weights": token_weights, "class_weights": class_weights}
    check_tensors(optional=True, task_ids=task_ids, task_weights=task_weights, **weights)
    if features.dtype not in _LOGIT_DTYPES:
        raise TypeError(f"logits or hidden states: expected a floating dtype, got {features.dtype}")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    if return_stats and task_weights is None:
        raise ValueError(
            "return_stats: needs task_ids and task_weights, got none; pass weights of 1 to count only"
        )
    _check_labels(labels, features)
    task_ids = _check_tasks(labels, task_ids, task_weights)
    _check_weights("task_weights", task_weights, features)
    _check_weights("token_weights", token_weights, features, tuple(labels.shape))
    _check_weights("class_weights", class_weights, features, (n_cols,))
    _check_denominator(denominator, reduction, features)
    dtype = accumulation_dtype(features.dtype)
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    _check_number("label_smoothing", label_smoothing, lambda value: 0 <= value <= 1, "in 0..1")
    _check_number("z_loss", z_loss, lambda value: 0 <= value <= most, f">= 0 and <= {most:.3g}")
    if softcap is not None:
        what = f"of {least:.3g} to {most:.3g}, or None"
        _check_number("softcap", softcap, lambda value: least <= value <= most, what)
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, Integral):
        raise TypeError(f"ignore_index: expected an int, got {ignore_index!r}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index: expected an int of 64 bits, as labels are, got {ignore_index}")
    if shift and labels.ndim == 0:
        raise ValueError("shift=True: expected labels (..., S), got a single label")
    if shift:
        labels = _shifted(labels, ignore_index)
        task_ids = None if task_ids is None else _shifted(task_ids, 0)
        token_weights = None if token_weights is None else _shifted(token_weights, 0)
    return RowArguments(
        labels=labels.reshape(-1).contiguous(),
        task_ids=None if task_ids is None else task_ids.reshape(-1).contiguous(),
        task_weights=_flat("task_weights", task_weights, dtype),
        token_weights=_flat("token_weights", token_weights, dtype),
        class_weights=_flat("class_weights", class_weights, dtype),
        denominator=None if denominator is None else denominator.to(dtype),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=float(label_smoothing),
        z_loss=float(z_loss),
        softcap=None if softcap is None else float(softcap),
        want_correct=return_stats,
        reads_unweighted=_needs_gradient(task_weights) or _has_other_derivative(impl, task_weights),
        impl=impl,
    )


def check_tensors(*, optional: bool = False, **arguments: Any) -> None:
    """Checks that the arguments are tensors, or None where they are `optional`.

    Raises:
        TypeError: another type; the message says where its tensor is.
    """
    for name, value in arguments.items():
        if optional and value is None:
            continue
        remedy = ""
        if isinstance(value, Tensor):
            # By its name: to import it takes time, and while a graph is traced there is none.
            if torch.compiler.is_compiling() or type(value).__name__ != "DTensor":
                continue
            remedy = "; pass its .full_tensor()"
            if name in ("weight", "bias"):
                # Without the placements each rank's rows would get the gradient of its own data alone.
                remedy = (
                    "; run the loss where the module's parameters are gathered, or where FSDP2 has sharded "
                    'it pass its .full_tensor(grad_placements=[Partial("avg")])'
                )
            remedy += ", or under tensor parallelism each rank's .to_local() to the vocab_parallel losses"
        if isinstance(value, Mapping) and name == "task_weights":
            remedy = "; use TaskWeights(...).to_tensor(tasks), tasks in the order of the ids"
        elif isinstance(getattr(value, name, None), Tensor):
            remedy = f"; use its .{name}"
        elif isinstance(value, list | tuple | int | float) or type(value).__name__ == "ndarray":
            remedy = "; use torch.as_tensor(...)"
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}{remedy}")


def refuse_other_derivatives(impl: str, *tensors: Any) -> None:
    """Raises where torch.func or forward mode differentiates: an operator is a constant to them.

    Within vmap too: a slice does not say that what was sliced requires grad.
    """
    if impl == "reference" or torch.compiler.is_compiling():
        return
    given = [each for each in tensors if isinstance(each, Tensor)]
    if forward_ad._current_level >= 0 or any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
        raise NotImplementedError(
            "torch.func, vmap and forward-mode derivatives: this loss has a backward pass only; use "
            'torch.autograd.grad, or impl="reference" (not within vmap)'
        )


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor holds values, as those of the meta device and of a fake mode do not."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def needs_gradients(*tensors: Tensor | None) -> tuple[bool, ...]:
    """Whether autograd will ask for the gradient of each."""
    return tuple(_needs_gradient(tensor) for tensor in tensors)


def held_weights(name: str, weights: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights in `dtype`, which has to hold them: none may become 0, of which nothing is trained.

    Raises:
        ValueError: it does not, on a CPU; elsewhere, and while a graph is traced, such a weight becomes NaN,
            which is refused where the operators run.
    """
    held = weights.to(dtype)
    if held.dtype == weights.dtype:
        return held
    is_lost = ((held == 0) & (weights != 0)) | (held.isinf() & weights.isfinite())
    is_read = has_values(weights) and weights.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_read and bool(is_lost.any()):
        raise ValueError(
            f"{name}: expected weights that float32 holds, got {weights[is_lost][:8].tolist()}; scale all "
            "weights alike, the loss divides by their mean"
        )
    return held.masked_fill(is_lost, math.nan)


def check_logits(logits: Tensor, *, inplace: bool, impl: str) -> None:
    """Checks what only the loss on logits has."""
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected (..., V) with V > 0, got {tuple(logits.shape)}")
    if not inplace:
        return
    if torch.compiler.is_compiling():
        raise ValueError("inplace=True: not under torch.compile; leave it out there")
    if impl == "reference":
        raise ValueError('inplace=True: impl="reference" keeps the logits; use impl="auto"')
    base = logits if logits._base is None else logits._base
    if any(each.is_leaf and each.requires_grad for each in (logits, base)):
        raise ValueError(
            "inplace=True: expected logits that a model made, got a leaf that requires grad; "
            "its values would be lost, leave inplace out"
        )


def check_linear(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, memory_budget: Any, valid_count: Any
) -> tuple[int | str | None, int | None]:
    """Checks what only the linear loss has: hidden (..., D), weight (V, D), bias (V,) and two numbers.

    Returns:
        The two numbers, of NumPy's types as Python's.
    """
    if weight.dtype not in _LOGIT_DTYPES:
        # Cast to floats the codes would pass for weights.
        raise TypeError(
            f"weight: expected a floating dtype of 16 bits or more, got {weight.dtype}; of a quantised head, "
            "whose codes are no weights, call the head and pass its logits to gtw_cross_entropy"
        )
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(
            f"weight: expected the whole head (V, D), got {tuple(weight.shape)}; under ZeRO-3 or FSDP the "
            "loss must run where the head is gathered"
        )
    if hidden.ndim < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden, weight: expected (..., D) and (V, D), "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != hidden.dtype:
            raise TypeError(
                f"{name}: expected the dtype of hidden, {hidden.dtype}, got {tensor.dtype}; cast one to the "
                "other, or compute under torch.autocast (bf16=True of a Trainer)"
            )
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name}: expected a tensor on {hidden.device}, got one on {tensor.device}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    if memory_budget is not None and memory_budget != "min" and not _is_count(memory_budget, 1):
        raise ValueError(f'memory_budget: expected a number of bytes, "min" or None, got {memory_budget!r}')
    if valid_count is not None and not _is_count(valid_count, 0):
        raise ValueError(f"valid_count: expected an int >= 0 or None, got {valid_count!r}")
    return _plain(memory_budget), _plain(valid_count)


def _needs_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def _has_other_derivative(impl: str, tensor: Tensor | None) -> bool:
    """Whether torch.func or forward mode differentiates by the tensor, which the reference alone is asked."""
    if impl != "reference" or tensor is None or torch.compiler.is_compiling():
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def _is_count(value: Any, least: int) -> bool:
    # Not int(value): a count of a compiled batch would become a constant.
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    # As it is: the compiler of torch 2.6 makes no bool of it.
    return is_whole and value >= least


def _plain(count: Any) -> Any:
    # Not int | str, for the same compiler.
    return count if count is None or isinstance(count, (int, str)) else int(count)


def _check_number(name: str, value: Any, holds: Callable[[Any], bool], expected: str) -> None:
    # True would be 1: that on a smoothing, say, is one that leaves nothing of the labels.
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(value):
        raise ValueError(f"{name}: expected a number {expected}, got {value!r}")


def _flat(name: str, values: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if values is None else held_weights(name, values, dtype).reshape(-1).contiguous()


def _shifted(values: Tensor, last: int) -> Tensor:
    shifted = torch.full_like(values, last)
    shifted[..., :-1] = values[..., 1:]
    return shifted


def _check_labels(labels: Tensor, features: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected int64, got {labels.dtype}; use labels.long()")
    if labels.shape != features.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {tuple(features.shape[:-1])}, that of the logits or hidden states "
            f"less its last dimension, got {tuple(labels.shape)}"
        )
    if labels.device != features.device:
        raise ValueError(f"labels: expected a tensor on {features.device}, got one on {labels.device}")


def _check_tasks(labels: Tensor, task_ids: Tensor | None, task_weights: Tensor | None) -> Tensor | None:
    """The task ids in the labels' shape."""
    if (task_ids is None) != (task_weights is None):
        given, missing = ("task_weights", "task_ids") if task_ids is None else ("task_ids", "task_weights")
        raise ValueError(f"{missing}: expected beside {given}, got None; pass both or neither")
    if task_ids is None or task_weights is None:
        return None
    if task_ids.dtype != torch.int64:
        raise TypeError(f"task_ids: expected int64, got {task_ids.dtype}; use task_ids.long()")
    if task_ids.device != labels.device:
        raise ValueError(f"task_ids: expected a tensor on {labels.device}, got one on {task_ids.device}")
    if task_ids.shape == labels.shape:
        return task_ids
    if labels.ndim > 1 and task_ids.shape == labels.shape[:1]:
        return task_ids.view(-1, *[1] * (labels.ndim - 1)).expand(labels.shape)
    raise ValueError(
        f"task_ids: expected the labels' shape {tuple(labels.shape)} or one per sample "
        f"{tuple(labels.shape[:1])}, got {tuple(task_ids.shape)}"
    )


def _check_weights(
    name: str, weights: Tensor | None, features: Tensor, shape: tuple[int, ...] | None = None
) -> None:
    """Checks a tensor of weights; without a `shape` it is (N,) and may require grad."""
    if weights is None:
        return
    if weights.dtype not in _WEIGHT_DTYPES:
        raise TypeError(
            f"{name}: expected float32 (16-bit floats would round the weights), got {weights.dtype}; "
            f"use {name}.float()"
        )
    if weights.device != features.device:
        raise ValueError(f"{name}: expected a tensor on {features.device}, got one on {weights.device}")
    if shape is None and (weights.ndim != 1 or weights.numel() == 0):
        raise ValueError(f"{name}: expected shape (N,), got {tuple(weights.shape)}")
    if shape is not None and weights.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(weights.shape)}")
    if shape is not None and weights.requires_grad:
        raise ValueError(f"{name}: it is a constant of the loss; pass {name}.detach()")


def _check_denominator(denominator: Tensor | None, reduction: str, features: Tensor) -> None:
    if denominator is None:
        return
    if reduction != "weighted_mean":
        raise ValueError(f'denominator: only "weighted_mean" divides by it, got reduction={reduction!r}')
    if (
        not isinstance(denominator, Tensor)
        or denominator.dtype not in _WEIGHT_DTYPES
        or denominator.ndim != 0
    ):
        raise TypeError(
            f"denominator: expected a 0-d float32 tensor, got {denominator!r}; use "
            "torch.as_tensor(denominator, dtype=torch.float32, device=logits.device)"
        )
    if denominator.device != features.device:
        raise ValueError(
            f"denominator: expected a tensor on {features.device}, got one on {denominator.device}"
        )
    if denominator.requires_grad:
        raise ValueError("denominator: it is a constant of the step; pass denominator.detach()")
