"""The public losses of a process group whose ranks share the vocabulary; found in `cotbal.losses`."""

import torch.distributed as dist
from torch import Tensor

from cotbal._arguments import LossOutputs
from cotbal._calls import LossAndStats, autocast, finish
from cotbal._implementation import choose_implementation
from cotbal._inputs import (
    check_linear,
    check_logits,
    check_tensors,
    needs_gradients,
    refuse_other_derivatives,
    row_arguments,
)
from cotbal.vocab_parallel import LinearLevel, LogitsLevel, VocabGroup, VocabParallelLoss


def vocab_parallel_gtw_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | None = None,
    *,
    token_weights: Tensor | None = None,
    denominator: Tensor | None = None,
    reduction: str = "weighted_mean",
    ignore_index: int = -100,
    shift: bool = False,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    class_weights: Tensor | None = None,
    return_stats: bool = False,
    impl: str = "auto",
    group: dist.ProcessGroup | None = None,
    vocab_range: tuple[int, int] | None = None,
) -> LossAndStats:
    """Returns `gtw_cross_entropy` of logits whose columns are spread over the ranks of a process group.

    Each rank holds a contiguous piece of the vocabulary, in the order of the ranks, and calls this with the
    same other arguments and the same gradient from above; each gets the same loss, to the bit. Five numbers
    a row and rank are exchanged, six with smoothing or statistics. Eager only; `impl="reference"` needs the
    whole vocabulary.

    Args:
        logits: (..., V_k), this rank's columns.
        labels: (...) int64 in 0..V-1 of the whole vocabulary, wherever the label's column is.
        task_ids: see `gtw_cross_entropy`, as for the other arguments that are not named here.
        task_weights: see `gtw_cross_entropy`.
        token_weights: see `gtw_cross_entropy`.
        denominator: see `gtw_cross_entropy`.
        reduction: see `gtw_cross_entropy`.
        ignore_index: see `gtw_cross_entropy`.
        shift: see `gtw_cross_entropy`.
        label_smoothing: see `gtw_cross_entropy`.
        z_loss: see `gtw_cross_entropy`.
        softcap: see `gtw_cross_entropy`.
        class_weights: (V,), whole on every rank.
        return_stats: see `gtw_cross_entropy`.
        impl: "auto", "triton" or "torch".
        group: the tensor-parallel process group; None is the default one.
        vocab_range: (start, V) where the pieces differ in size; None: rank k holds k V_k to (k + 1) V_k - 1.

    Returns:
        The loss, or the pair (loss, TaskStats), as `gtw_cross_entropy`.

    Raises:
        ValueError: as `gtw_cross_entropy`; no process group; pieces that do not follow each other.
        TypeError: as `gtw_cross_entropy`.

    Example:
        >>> import torch, cotbal.losses
        >>> loss_fn = cotbal.losses.vocab_parallel_gtw_cross_entropy
        >>> # on every rank of the group: loss = loss_fn(logits[..., start:end], labels, group=group)
    """
    check_tensors(logits=logits)
    impl = _split_implementation(impl, logits)
    refuse_other_derivatives(impl, logits, task_weights)
    check_logits(logits, inplace=False, impl=impl)
    flat = logits.reshape(-1, logits.shape[-1])
    vocab = VocabGroup.agree(group, vocab_range, size=flat.shape[1], n_rows=flat.shape[0], device=flat.device)
    arguments = row_arguments(
        logits,
        vocab.piece.n_cols,
        labels,
        task_ids,
        task_weights,
        token_weights=token_weights,
        class_weights=class_weights,
        denominator=denominator,
        reduction=reduction,
        ignore_index=ignore_index,
        shift=shift,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        return_stats=return_stats,
        impl=impl,
    )
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    needs = needs_gradients(flat, None, None)
    outputs = VocabParallelLoss.apply(LogitsLevel(vocab), needs, flat, None, None, *arguments)
    return finish(LossOutputs(*outputs), arguments, labels)


def vocab_parallel_linear_gtw_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    token_weights: Tensor | None = None,
    denominator: Tensor | None = None,
    reduction: str = "weighted_mean",
    ignore_index: int = -100,
    shift: bool = False,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    class_weights: Tensor | None = None,
    return_stats: bool = False,
    impl: str = "auto",
    memory_budget: int | str | None = None,
    valid_count: int | None = None,
    accumulate_weight_grad: bool = False,
    group: dist.ProcessGroup | None = None,
    vocab_range: tuple[int, int] | None = None,
) -> LossAndStats:
    """Returns `linear_gtw_cross_entropy` with a head whose rows are spread over the ranks of a process group.

    As `vocab_parallel_gtw_cross_entropy`. The gradient in `hidden`, the same on every rank, is summed over
    the ranks in the forward pass, in float32, and rounded once: do not sum it again. Those in `weight` and
    `bias` are of this rank's piece.

    Args:
        hidden: (..., D), the same on every rank.
        weight: (V_k, D), this rank's rows of the head.
        labels: (...) int64 in 0..V-1 of the whole vocabulary.
        task_ids: see `gtw_cross_entropy`, as for the other arguments that are not named here.
        task_weights: see `gtw_cross_entropy`.
        bias: (V_k,), this rank's piece.
        token_weights: see `gtw_cross_entropy`.
        denominator: see `gtw_cross_entropy`.
        reduction: see `linear_gtw_cross_entropy`; under "none" the backward pass exchanges numbers too.
        ignore_index: see `gtw_cross_entropy`.
        shift: see `gtw_cross_entropy`.
        label_smoothing: see `gtw_cross_entropy`.
        z_loss: see `gtw_cross_entropy`.
        softcap: see `gtw_cross_entropy`.
        class_weights: (V,), whole on every rank.
        return_stats: see `gtw_cross_entropy`.
        impl: "auto", "triton" or "torch".
        memory_budget: see `linear_gtw_cross_entropy`; the same on every rank, for a piece of average size.
        valid_count: see `linear_gtw_cross_entropy`; the same on every rank.
        accumulate_weight_grad: not supported here; True raises.
        group: see `vocab_parallel_gtw_cross_entropy`.
        vocab_range: see `vocab_parallel_gtw_cross_entropy`.

    Returns:
        The loss, or the pair (loss, TaskStats), as `gtw_cross_entropy`.

    Raises:
        ValueError: as `vocab_parallel_gtw_cross_entropy`.
        TypeError: as `gtw_cross_entropy`.

    Example:
        >>> import torch, cotbal.losses
        >>> loss_fn = cotbal.losses.vocab_parallel_linear_gtw_cross_entropy
        >>> # on every rank of the group: loss = loss_fn(hidden, head.weight[start:end], labels, group=group)
    """
    check_tensors(hidden=hidden, weight=weight)
    check_tensors(optional=True, bias=bias)
    hidden, weight = autocast(hidden), autocast(weight)
    bias = None if bias is None else autocast(bias)
    impl = _split_implementation(impl, hidden)
    refuse_other_derivatives(impl, hidden, weight, bias, task_weights)
    memory_budget, valid_count = check_linear(hidden, weight, bias, memory_budget, valid_count)
    if accumulate_weight_grad:
        raise ValueError("accumulate_weight_grad=True: not with a vocabulary-parallel head; leave it out")
    flat = hidden.reshape(-1, hidden.shape[-1])
    vocab = VocabGroup.agree(
        group, vocab_range, size=weight.shape[0], n_rows=flat.shape[0], device=flat.device
    )
    arguments = row_arguments(
        hidden,
        vocab.piece.n_cols,
        labels,
        task_ids,
        task_weights,
        token_weights=token_weights,
        class_weights=class_weights,
        denominator=denominator,
        reduction=reduction,
        ignore_index=ignore_index,
        shift=shift,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        return_stats=return_stats,
        impl=impl,
    )
    level = LinearLevel(vocab, memory_budget, valid_count)
    needs = needs_gradients(flat, weight, bias)
    outputs = VocabParallelLoss.apply(level, needs, flat, weight, bias, *arguments)
    return finish(LossOutputs(*outputs), arguments, labels)


def _split_implementation(impl: str, features: Tensor) -> str:
    impl = choose_implementation(impl, features)
    if impl == "reference":
        raise ValueError('impl="reference": it needs the whole vocabulary on a rank; use impl="auto"')
    return impl
