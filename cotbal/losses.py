"""The public losses: GTW cross-entropy on logits, and on hidden states with the vocabulary product inside."""

from torch import Tensor

from cotbal import _reference
from cotbal._accumulation import check_accumulation
from cotbal._arguments import LossOutputs
from cotbal._calls import LossAndStats, TaskStats, autocast, finish
from cotbal._implementation import choose_implementation
from cotbal._inputs import (
    check_linear,
    check_logits,
    check_tensors,
    has_values,
    needs_gradients,
    refuse_other_derivatives,
    row_arguments,
)
from cotbal.linear_ops import (
    AccumulatingLinearGTWCrossEntropy,
    LinearGTWCrossEntropy,
    linear_gtw_cross_entropy_op,
)
from cotbal.ops import GTWCrossEntropy, InplaceGTWCrossEntropy, gtw_cross_entropy_op, is_plain_call
from cotbal.vocab_losses import vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy

__all__ = [
    "TaskStats",
    "gtw_cross_entropy",
    "linear_gtw_cross_entropy",
    "vocab_parallel_gtw_cross_entropy",
    "vocab_parallel_linear_gtw_cross_entropy",
]


def gtw_cross_entropy(
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
    inplace: bool = False,
    return_stats: bool = False,
    impl: str = "auto",
) -> LossAndStats:
    """Returns the GTW loss (Eq. 2) sum_r w_r c_r / sum_r w_r, w_r = token_weights_r task_weights[task_ids_r].

    Args:
        logits: (..., V) float16, bfloat16, float32 or float64.
        labels: (...) int64 in 0..V-1, or `ignore_index` where the row is not valid.
        task_ids: int64 in 0..N-1, of the labels' shape or one per leading sample (B,).
        task_weights: (N,) float32 or float64, finite and >= 0. Without it every weight is 1 (Eq. 1).
        token_weights: of the labels' shape, float32 or float64, finite and >= 0.
        denominator: 0-d float32 or float64 tensor in place of sum_r w_r: that of the whole optimizer step.
            DDP, FSDP and DeepSpeed average gradients over the ranks: pass denominator / ranks, or use
            `cotbal.step_balance.StepBalance`, which divides by `loss_factor`.
            The gradient of float16 logits is rounded before a loss scale from above reaches it: pass
            denominator / scale, and hand loss / scale on.
        reduction: "weighted_mean", "sum" (the numerator) or "none" (each w_r c_r, in the labels' shape).
        ignore_index: the label of a row that counts nowhere.
        shift: row t takes the label, task id and token weight of position t + 1 (causal language models).
        label_smoothing: eps in 0..1: that share of the target is spread evenly over all classes.
        z_loss: zeta >= 0: adds zeta lse_r^2 to each row loss, so it is weighted as the row is.
        softcap: > 0: logits become softcap tanh(logits / softcap) first.
        class_weights: cw (V,) float32 or float64, finite and >= 0: row losses are weighted by cw[y_r], and so
            is the default denominator, sum_r w_r cw[y_r], as in `torch.nn.functional.cross_entropy`.
        inplace: write the gradient over the logits, which saves their memory. Whatever saved them for its own
            backward pass raises then; do not read them after the loss. Without autograd they are left alone.
            They have one loss until its backward pass, which raises where anything else, a loss of another
            slice included, was written over the same tensor. Of `logits.chunk(2)` and other views that come
            several at once torch lets one be written over: pass slices, or all of them.
            Logits that are no rows of one buffer (`logits[:, :-1]`, transposed) are copied first.
        return_stats: also return TaskStats; needs `task_weights`.
        impl: "auto", "triton", "torch" or "reference".

    Returns:
        The loss, 0-d (or the labels' shape for "none"), float32; float64 for float64 logits. Exactly 0,
        with its graph, where nothing is valid. With `return_stats` the pair (loss, TaskStats).

    Raises:
        ValueError: shapes, values or options that cannot be right; on CUDA, labels and task ids out of range
            are caught by an assertion on the device.
        TypeError: a wrong dtype.
        NotImplementedError: an option that this version does not carry.

    Example:
        >>> import torch, cotbal
        >>> logits = torch.randn(2, 5, 11, requires_grad=True)
        >>> labels = torch.randint(11, (2, 5))
        >>> task_ids = torch.tensor([0, 1])  # one task per sample
        >>> loss = cotbal.gtw_cross_entropy(logits, labels, task_ids, torch.tensor([0.8, 1.2]))
        >>> loss.backward()
    """
    check_tensors(logits=logits)
    impl = choose_implementation(impl, logits)
    refuse_other_derivatives(impl, logits, task_weights)
    check_logits(logits, inplace=inplace, impl=impl)
    arguments = row_arguments(
        logits,
        logits.shape[-1],
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
    flat = logits.reshape(-1, logits.shape[-1])
    if impl == "reference":
        return finish(_reference.loss(flat, arguments), arguments, labels)
    (needs_gradient,) = needs_gradients(flat)
    # Rows that share memory (`logits[:1].expand(R, V)`) would take each other's gradient.
    share_memory = inplace and flat.shape[0] > 1 and flat.stride(0) < flat.shape[1]
    flat = flat.contiguous() if share_memory or flat.stride(-1) != 1 else flat
    if inplace and needs_gradient and has_values(flat):
        outputs = InplaceGTWCrossEntropy.apply(flat, *arguments)
    else:
        run = GTWCrossEntropy.apply if is_plain_call(flat, *arguments) else gtw_cross_entropy_op
        outputs = run(flat, *arguments, needs_gradient)
    return finish(LossOutputs(*outputs[:6]), arguments, labels)


def linear_gtw_cross_entropy(
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
) -> LossAndStats:
    """Returns `gtw_cross_entropy(hidden @ weight.T, ...)` without ever holding all the logits.

    Rows that are not valid are left out before the product; the others go through it in chunks, and both
    gradients are formed on the way, so the backward pass only scales them. Under autocast the product is in
    autocast's dtype.

    Args:
        hidden: (..., D) float16, bfloat16, float32 or float64.
        weight: (V, D) of the same dtype: the head's `lm_head.weight`.
        labels: (...) int64, as are the other arguments in `gtw_cross_entropy`.
        task_ids: see `gtw_cross_entropy`.
        task_weights: see `gtw_cross_entropy`.
        bias: (V,) of the same dtype, added to the logits.
        token_weights: see `gtw_cross_entropy`.
        denominator: see `gtw_cross_entropy`.
        reduction: "weighted_mean", "sum" or "none". Under "none" each row gets its own gradient from above,
            so the backward pass computes the logits anew: 8 Nv V D FLOPs instead of 6.
        ignore_index: see `gtw_cross_entropy`.
        shift: see `gtw_cross_entropy`.
        label_smoothing: see `gtw_cross_entropy`.
        z_loss: see `gtw_cross_entropy`.
        softcap: see `gtw_cross_entropy`.
        class_weights: see `gtw_cross_entropy`.
        return_stats: also return TaskStats; needs `task_weights`.
        impl: "auto", "triton", "torch" or "reference".
        memory_budget: bytes of logits, of their gradient and of gathered states alive at once, more only
            where one chunk takes no more memory than several; None: 128 MiB on a CPU, 2 GiB on a GPU; "min":
            what the rounding of dW takes anyway, which a tiny number may stay below. Never less than 64 rows,
            128 on a GPU, whatever the number. Logits are float32 (float64 for float64), whatever the dtype of
            `hidden`; on a CPU float32 copies of 16-bit factors come besides, 4096 rows of the head at a time.
        valid_count: at least the number of labels that are not `ignore_index` (after the shift). Without it
            a GPU is waited for once, to count them, and a CUDA graph leaves no rows out; the data collator
            knows. Too small a number raises.
        accumulate_weight_grad: where `weight.grad` exists, add dW to it in the forward pass, which saves a
            (V, D) buffer. One backward pass with an upstream gradient of 1 must follow: another raises, and
            where none does, as in a step that is skipped, dW stays in `weight.grad`. `zero_grad` comes before
            the loss: in between it would lose dW, so that raises. Of the hooks of `weight` those of
            `register_post_accumulate_grad_hook` are called, or raise where an older torch would not call
            them; those of `register_hook`, which would see no gradient, raise. Not in a checkpoint: it would
            be added twice, so it raises.

    Returns:
        The loss, or the pair (loss, TaskStats), as `gtw_cross_entropy`.

    Raises:
        ValueError: as `gtw_cross_entropy`.
        TypeError: as `gtw_cross_entropy`.
        NotImplementedError: as `gtw_cross_entropy`.

    Example:
        >>> import torch, cotbal
        >>> hidden, head = torch.randn(2, 5, 8, requires_grad=True), torch.nn.Linear(8, 11, bias=False)
        >>> labels = torch.randint(11, (2, 5))
        >>> loss = cotbal.linear_gtw_cross_entropy(hidden, head.weight, labels, shift=True)
        >>> loss.backward()
    """
    check_tensors(hidden=hidden, weight=weight)
    check_tensors(optional=True, bias=bias)
    parameter, hidden, weight = weight, autocast(hidden), autocast(weight)
    bias = None if bias is None else autocast(bias)
    impl = choose_implementation(impl, hidden)
    refuse_other_derivatives(impl, hidden, weight, bias, task_weights)
    memory_budget, valid_count = check_linear(hidden, weight, bias, memory_budget, valid_count)
    arguments = row_arguments(
        hidden,
        weight.shape[0],
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
    flat = hidden.reshape(-1, hidden.shape[-1])
    if accumulate_weight_grad:
        check_accumulation(parameter, reduction, impl)
    if impl == "reference":
        return finish(_reference.linear_loss(flat, weight, bias, arguments), arguments, labels)
    needs = needs_gradients(flat, weight, bias)
    budget = 0 if memory_budget == "min" else memory_budget
    inputs = (flat, weight, bias, *arguments, None, *needs, budget, valid_count)
    adds_in_place = accumulate_weight_grad and needs[1] and has_values(flat)
    if adds_in_place and parameter.grad is not None:
        outputs = AccumulatingLinearGTWCrossEntropy.apply(lambda: parameter.grad, *inputs)
    else:
        is_plain = is_plain_call(flat, weight, bias, *arguments)
        outputs = (LinearGTWCrossEntropy.apply if is_plain else linear_gtw_cross_entropy_op)(*inputs)
    return finish(LossOutputs(*outputs[:6]), arguments, labels)
