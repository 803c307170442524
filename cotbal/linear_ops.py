"""The loss on hidden states and head as an operator of torch.library, and its gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cotbal._accumulation import Added, label_of_most
from cotbal._arguments import OUTPUT_SCHEMA, ROW_SCHEMA, LossOutputs, RowArguments
from cotbal._compute import outputs_of, row_loss_of, weigh, with_upstream
from cotbal.ops import (
    HeldGradients,
    refuse_second_derivative,
    refuse_unformed,
    refuse_vmap,
    save_rows,
    saved_rows,
    task_weights_gradient,
    wanted_now,
)
from csrc_triton.checks import require
from csrc_triton.linear_gtw_cross_entropy import linear_gtw_cross_entropy_forward

_FEATURES = ("hidden", "weight", "bias")
_N_FEATURES, _N_ROWS = len(_FEATURES), len(RowArguments._fields)
_TASK_WEIGHTS = _N_FEATURES + RowArguments._fields.index("task_weights")


def _compute(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    arguments: RowArguments,
    row_upstream: Tensor | None,
    needs: tuple[bool, ...],
    memory_budget: int | None,
    valid_count: int | None,
    weight_gradient_into: Tensor | None = None,
) -> tuple[LossOutputs, tuple[Tensor | None, ...]]:
    """The loss, and the gradients in hidden, weight and bias as far as needed."""
    weighed = weigh(arguments, weight.shape[0], hidden)
    weights, row_loss = weighed.weights, row_loss_of(weighed)
    if row_upstream is not None:
        weights, row_loss = weighed.weights * row_upstream, with_upstream(row_loss, arguments.impl)
    result = linear_gtw_cross_entropy_forward(
        hidden,
        weight,
        bias,
        weighed.rows.labels,
        weights,
        row_loss,
        read=weighed.read_apart(row_upstream),
        ignore_index=arguments.ignore_index,
        needs_hidden_gradient=needs[0],
        needs_weight_gradient=needs[1],
        needs_bias_gradient=needs[2],
        memory_budget="min" if memory_budget == 0 else memory_budget,
        valid_count=valid_count,
        weight_gradient_into=weight_gradient_into,
    )
    outputs = outputs_of(weighed, result.losses, result.correct)
    return outputs, (result.hidden_gradient, result.weight_gradient, result.bias_gradient)


def _needed_now(arguments: RowArguments, needs: list[bool]) -> tuple[bool, ...]:
    """The gradients that the forward pass forms: none where each row will get a factor of its own."""
    return tuple(needed and arguments.reduction != "none" for needed in needs)


def _or_empty(gradient: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if gradient is None else gradient


def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """Returns `LossOutputs` and the gradients in hidden, weight and bias, empty where none is needed.

    Args:
        hidden: (R, D).
        weight: (V, D).
        bias: (V,) or None.
        arguments: those of `RowArguments`; a factor (R,) of the rows' gradients or None; which gradients are
            needed; the bytes of logits alive at once (0: as few as can be); the bound on the valid rows.
    """
    row_upstream, *needs, memory_budget, valid_count = arguments[_N_ROWS:]
    rows = RowArguments(*arguments[:_N_ROWS])
    needs_now = _needed_now(rows, needs)
    outputs, gradients = _compute(
        hidden, weight, bias, rows, row_upstream, needs_now, memory_budget, valid_count
    )
    return *outputs, *(_or_empty(gradient, hidden) for gradient in gradients)


linear_gtw_cross_entropy_op = torch.library.custom_op(
    "cotbal::linear_gtw_cross_entropy",
    _forward,
    mutates_args=(),
    schema=f"(Tensor hidden, Tensor weight, Tensor? bias, {ROW_SCHEMA}, Tensor? row_upstream, "
    "bool needs_hidden, bool needs_weight, bool needs_bias, int? memory_budget, SymInt? valid_count) -> "
    f"({OUTPUT_SCHEMA}, Tensor hidden_gradient, Tensor weight_gradient, Tensor bias_gradient)",
)


@linear_gtw_cross_entropy_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    rows = RowArguments(*arguments[:_N_ROWS])
    needs = _needed_now(rows, list(arguments[_N_ROWS + 1 : _N_ROWS + 4]))
    outputs = LossOutputs.fake(rows, hidden)
    gradients = (
        like.new_empty(like.shape) if needed and like is not None else hidden.new_empty(0)
        for needed, like in zip(needs, (hidden, weight, bias), strict=True)
    )
    return *outputs, *gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    arguments = RowArguments(*inputs[_N_FEATURES : _N_FEATURES + _N_ROWS])
    _, *needs, memory_budget, valid_count = inputs[_N_FEATURES + _N_ROWS :]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.needs, ctx.chunks = needs, (memory_budget, valid_count)
    if arguments.reduction == "none":
        # The logits are made anew then, and the other products for the first time.
        ctx.held = None
        save_rows(ctx, _TASK_WEIGHTS, arguments, LossOutputs(*output[:6]), *inputs[:_N_FEATURES])
    else:
        held = (each if needed else None for each, needed in zip(output[6:], needs, strict=True))
        ctx.held = HeldGradients(tuple(held))
        save_rows(ctx, _TASK_WEIGHTS, arguments, LossOutputs(*output[:6]))


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_second_derivative()
    gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    if upstream is None:
        return tuple(gradients)
    arguments, sums, features = saved_rows(ctx)
    formed = zip(ctx.needs_input_grad, ctx.needs, strict=False)
    refuse_unformed(
        **dict(zip(_FEATURES, formed, strict=True)),
        task_weights=(ctx.needs_input_grad[_TASK_WEIGHTS], arguments.reads_unweighted),
    )
    wanted = wanted_now(ctx, ctx.needs)
    if ctx.held is not None and any(ctx.needs):
        gradients[:_N_FEATURES] = ctx.held.scaled(upstream, arguments, wanted)
    elif any(wanted):
        gradients[:_N_FEATURES] = _recomputed(ctx, features, arguments, upstream, wanted)
    if ctx.needs_input_grad[_TASK_WEIGHTS]:
        gradients[_TASK_WEIGHTS] = task_weights_gradient(arguments, sums, upstream)
    return tuple(gradients)


def _recomputed(
    ctx: Any, features: tuple[Any, ...], arguments: RowArguments, upstream: Tensor, wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients in hidden, weight and bias of sum_r upstream_r w_r c_r."""
    plain = arguments._replace(reduction="sum", want_correct=False, reads_unweighted=False)
    output = linear_gtw_cross_entropy_op(*features, *plain, upstream, *wanted, *ctx.chunks)
    return [each if needed else None for each, needed in zip(output[6:], wanted, strict=True)]


linear_gtw_cross_entropy_op.register_autograd(_backward, setup_context=_setup_context)
refuse_vmap(linear_gtw_cross_entropy_op)


class LinearGTWCrossEntropy(torch.autograd.Function):
    """`linear_gtw_cross_entropy_op` for a plain call."""

    # Not by setup_context, for which torch asks the signature of forward in every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """Returns `LossOutputs`."""
        output = _forward(*inputs)
        _setup_context(ctx, inputs, output)
        return output[:6]

    backward = staticmethod(_backward)


class AccumulatingLinearGTWCrossEntropy(torch.autograd.Function):
    """`linear_gtw_cross_entropy_op` that adds dW to `weight.grad` in the forward pass, without a buffer."""

    @staticmethod
    def forward(ctx: Any, gradient_of: Callable[[], Tensor], *inputs: Any) -> tuple[Tensor, ...]:
        """Returns `LossOutputs`; `weight.grad` (V, D), which `gradient_of` gives, has grown by dW."""
        weight_grad = gradient_of()
        Added.look_at_those_in(weight_grad)
        hidden, weight, bias, *rest = inputs
        row_upstream, *needs, memory_budget, valid_count = rest[_N_ROWS:]
        arguments = RowArguments(*rest[:_N_ROWS])
        outputs, (hidden_gradient, _, bias_gradient) = _compute(
            hidden,
            weight,
            bias,
            arguments,
            row_upstream,
            tuple(needs),
            memory_budget,
            valid_count,
            weight_grad,
        )
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.gradients = hidden_gradient, None, bias_gradient
        ctx.added = Added(gradient_of, weight_grad, label_of_most(arguments, weight, outputs.losses))
        save_rows(ctx, 1 + _TASK_WEIGHTS, arguments, outputs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients in hidden, bias and task weights; dW has been added already."""
        refuse_second_derivative()
        if ctx.gradients is None:
            raise RuntimeError(
                "backward a second time with accumulate_weight_grad=True: the weight's gradient was added "
                "once, in the forward pass; expected one backward pass for each call"
            )
        ctx.added.refuse_lost()
        gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        factor = torch.zeros(()) if upstream is None else upstream
        expected = "an upstream gradient of 1; fold constants into denominator"
        require(factor == 1, f"accumulate_weight_grad=True: expected {expected}", factor)
        gradients[1 : 1 + _N_FEATURES], ctx.gradients, ctx.added = ctx.gradients, None, None
        arguments, sums, _ = saved_rows(ctx)
        if ctx.needs_input_grad[1 + _TASK_WEIGHTS]:
            gradients[1 + _TASK_WEIGHTS] = task_weights_gradient(arguments, sums, factor)
        return tuple(gradients)
