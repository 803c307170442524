"""The loss on logits as an operator of torch.library, opaque to torch.compile, and its gradients.

The gradient is formed in the forward pass; the backward pass scales it by the upstream gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cotbal._arguments import OUTPUT_SCHEMA, ROW_SCHEMA, LossOutputs, RowArguments
from cotbal._compute import loss_on_logits, outputs_of, scale_rows_, weigh
from csrc_triton.task_stats import per_task

_TASK_WEIGHTS = 1 + RowArguments._fields.index("task_weights")
_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain_call(*inputs: Any) -> bool:
    """Whether autograd alone follows what is done to the inputs: then a call need not be an operator.

    Nothing compiles it, no mode looks at it, and none of the tensors is of another class or without values.
    Torch's way to an operator written in Python takes the host more time: `benchmarks.host_time`.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    given = (each for each in inputs if isinstance(each, Tensor))
    return all(type(each) in _PLAIN and not each.is_meta for each in given)


def _compute(logits: Tensor, arguments: RowArguments, gradient: Tensor | None) -> LossOutputs:
    """The loss on logits (R, V); fills `gradient` (R, V), which may be `logits` itself."""
    weighed = weigh(arguments, logits.shape[1], logits)
    losses, correct = loss_on_logits(weighed, logits, weighed.rows.labels, weighed.weights, gradient)
    return outputs_of(weighed, losses, correct)


def _forward(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Returns `LossOutputs` and the gradient (R, V) of the loss, (0, V) where none is needed.

    Args:
        logits: (R, V), unit column stride.
        arguments: those of `RowArguments`, then whether the gradient is needed.
    """
    *row_arguments, needs_gradient = arguments
    gradient = logits.new_empty(logits.shape if needs_gradient else (0, logits.shape[1]))
    target = gradient if needs_gradient else None
    return *_compute(logits, RowArguments(*row_arguments), target), gradient


gtw_cross_entropy_op = torch.library.custom_op(
    "cotbal::gtw_cross_entropy",
    _forward,
    mutates_args=(),
    schema=f"(Tensor logits, {ROW_SCHEMA}, bool needs_gradient) -> ({OUTPUT_SCHEMA}, Tensor gradient)",
)


@gtw_cross_entropy_op.register_fake
def _(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *row_arguments, needs_gradient = arguments
    gradient = logits.new_empty(logits.shape if needs_gradient else (0, logits.shape[1]))
    return *LossOutputs.fake(RowArguments(*row_arguments), logits), gradient


scale_op = torch.library.custom_op(
    "cotbal::scale_",
    scale_rows_,
    mutates_args=("gradient",),
    schema="(Tensor(a!) gradient, Tensor factor, Tensor? labels, int ignore_index, str impl) -> ()",
)


@scale_op.register_fake
def _(gradient: Tensor, factor: Tensor, labels: Tensor | None, ignore_index: int, impl: str) -> None:
    return None


class HeldGradients:
    """Gradients of the forward pass, scaled and handed out by the backward pass, most often once.

    The first one's rows are those of the labels.
    """

    def __init__(self, gradients: tuple[Tensor | None, ...]) -> None:
        self.gradients: tuple[Tensor | None, ...] | None = gradients
        # Of the first one, where it stands in the logits: whoever writes to them counts it up.
        self.version: int | None = None

    def scaled(
        self, factor: Tensor, arguments: RowArguments, wanted: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """The gradients times `factor`: in place, or in copies where the graph is kept for another pass.

        None for those that are not `wanted`.
        """
        if self.gradients is None:
            raise RuntimeError(
                "backward a second time through this loss: its gradient was handed out and scaled in place; "
                "expected retain_graph=True at every backward but the last"
            )
        self._refuse_changed(self.gradients[0])
        gradients = tuple(
            each if is_wanted else None for each, is_wanted in zip(self.gradients, wanted, strict=True)
        )
        # While a graph is traced, a change in place would change what the forward pass returns.
        is_traced = any(type(each) is not Tensor for each in gradients if each is not None)
        if _graph_is_kept() or is_traced:
            gradients = tuple(None if each is None else each.clone() for each in gradients)
        else:
            self.gradients = None
        for place, each in enumerate(gradients):
            if each is not None:
                matrix = each if each.ndim == 2 else each.unsqueeze(0)
                _scale(matrix, factor, arguments.labels if place == 0 else None, arguments)
        return gradients

    def _refuse_changed(self, first: Tensor | None) -> None:
        if self.version is None or first is None or torch.compiler.is_compiling():
            return
        if first._version != self.version:
            raise RuntimeError(
                "inplace=True: expected the logits, which hold the gradient since the loss, to be left alone "
                f"until its backward pass, got version {first._version} of them instead of {self.version}: "
                "an operation in place, another loss over them or over a slice of the same tensor, or a "
                "checkpoint that computes the loss anew; call one loss on all logits, or leave inplace out"
            )


def _scale(gradient: Tensor, factor: Tensor, labels: Tensor | None, arguments: RowArguments) -> None:
    # What is_grads_batched=True makes of the factor has the class of a tensor.
    if is_plain_call(gradient, factor) and not torch._C._functorch.is_legacy_batchedtensor(factor):
        scale_rows_(gradient, factor, labels, arguments.ignore_index, arguments.impl)
        # As the operator does: the gradient may stand in logits that something saved meanwhile.
        torch.autograd.graph.increment_version(gradient)
        return
    try:
        scale_op(gradient, factor, labels, arguments.ignore_index, arguments.impl)
    except RuntimeError as error:
        if "Batching rule" not in str(error):
            raise
        raise NotImplementedError(
            "is_grads_batched=True, vectorize=True: not through this loss, whose gradient is scaled in "
            'place; take the gradients one by one, or impl="reference"'
        ) from error


def wanted_now(ctx: Any, needed: Sequence[bool]) -> tuple[bool, ...]:
    """Which of the first tensors' gradients the running backward pass is for.

    `torch.autograd.grad` and `backward(inputs=...)` may be for some alone, of those that are `needed`.
    """
    return tuple(is_needed and _leads_on(ctx, place) for place, is_needed in enumerate(needed))


def _leads_on(ctx: Any, place: int) -> bool:
    """Whether the backward pass goes on behind a tensor; True where torch cannot say, as of some leaves."""
    asks = getattr(torch._C, "_will_engine_execute_node", None)
    # A compiled backward pass has a context without nodes.
    nodes = getattr(ctx, "next_functions", None)
    if asks is None or nodes is None or torch.compiler.is_compiling():
        return True
    try:
        return asks(nodes[place][0])
    except RuntimeError:
        return True


def _graph_is_kept() -> bool:
    """Whether the running backward pass was called with retain_graph=True; True where torch cannot say."""
    asks = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asks is None else asks()


def refuse_second_derivative() -> None:
    """Raises under create_graph=True: autograd would record the scaling of a constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: this loss has no second derivative; "
            'use impl="reference", which autograd differentiates'
        )


def refuse_unformed(**gradients: tuple[bool, bool]) -> None:
    """Raises where autograd asks for a gradient that the call was not told to form.

    Args:
        **gradients: by the name of what they are in: whether it is asked for, and whether it was formed.
    """
    missing = ", ".join(name for name, (asked, formed) in gradients.items() if asked and not formed)
    if missing:
        raise RuntimeError(
            f"{missing}: expected a loss that was called where they require grad, got a graph captured where "
            "they did not, frozen or under no_grad, which forms no gradient in them; capture it anew"
        )


class Sums(NamedTuple):
    """Of `LossOutputs` what the gradient in the task weights is made of; what it needs not is None."""

    loss: Tensor | None = None
    losses: Tensor | None = None
    loss_sum: Tensor | None = None
    mass_sum: Tensor | None = None


def save_rows(
    ctx: Any, place: int, arguments: RowArguments, outputs: LossOutputs, *features: Tensor | None
) -> None:
    """Keeps on `ctx` what the rows brought, what came of them, and features where they are needed again.

    Args:
        ctx: autograd's.
        place: of the task weights among the inputs.
        arguments: the rows.
        outputs: what came of them.
        *features: kept as they are.
    """
    sums = Sums()
    if ctx.needs_input_grad[place] and arguments.reduction == "none":
        sums = Sums(losses=outputs.losses)
    elif ctx.needs_input_grad[place]:
        # Copies: who has the loss may change it, as `loss /= 4` does.
        loss, _, loss_sum, mass_sum = outputs[:4]
        sums = Sums(loss.clone(), loss_sum=loss_sum.clone(), mass_sum=mass_sum.clone())
    ctx.save_for_backward(*arguments[:6], *sums, *features)
    ctx.row_options = arguments[6:]


def saved_rows(ctx: Any) -> tuple[RowArguments, Sums, tuple[Tensor | None, ...]]:
    """What `save_rows` kept."""
    saved = ctx.saved_tensors
    return RowArguments(*saved[:6], *ctx.row_options), Sums(*saved[6:10]), saved[10:]


def task_weights_gradient(arguments: RowArguments, sums: Sums, upstream: Tensor) -> Tensor:
    """dL/dtask_weights_t (N,): (loss_sum_t - L m_t) / denominator under the weighted mean.

    loss_sum_t / denominator where it was given, loss_sum_t for "sum"; for "none" each row counts with its
    own upstream gradient.
    """
    assert arguments.task_weights is not None
    if sums.losses is not None:
        rows = arguments.rows(0, sums.losses)
        return per_task(_scaled(rows.token_mass * sums.losses, upstream), rows, rows.valid)
    loss, _, loss_sum, mass_sum = sums
    assert loss is not None
    assert loss_sum is not None
    assert mass_sum is not None
    if arguments.reduction == "sum":
        return _scaled(loss_sum, upstream)
    if arguments.denominator is None:
        denominator = (arguments.task_weights * mass_sum).sum()
        # A loss that is infinite is none of a task that is absent.
        numerator = loss_sum - (loss * mass_sum).masked_fill(mass_sum == 0, 0)
    else:
        denominator, numerator = arguments.denominator, loss_sum
    return torch.where(denominator > 0, _scaled(numerator, upstream) / denominator, 0)


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """A gradient of 0 stays 0, whatever comes from above."""
    return torch.where(gradient == 0, 0, upstream * gradient)


def refuse_vmap(operator: Any) -> None:
    """Makes torch.vmap raise: a slice does not say that what was sliced wants a gradient."""

    def refuse(*_: Any) -> None:
        raise NotImplementedError(
            "torch.vmap: not through this loss, which takes any number of leading dimensions instead"
        )

    # Torch 2.4 has no such rules.
    if hasattr(operator, "register_vmap"):
        operator.register_vmap(refuse)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    arguments, outputs, gradient = RowArguments(*inputs[1:-1]), LossOutputs(*output[:-1]), output[-1]
    # A zero gradient of the logits' size for each output that has none would be made otherwise.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.needs = inputs[-1:]
    ctx.held = HeldGradients((gradient if inputs[-1] else None,))
    save_rows(ctx, _TASK_WEIGHTS, arguments, outputs)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_second_derivative()
    n_inputs = len(ctx.needs_input_grad)
    if upstream is None:
        return (None,) * n_inputs
    gradients: list[Tensor | None] = [None] * n_inputs
    arguments, sums, _ = saved_rows(ctx)
    refuse_unformed(
        logits=(ctx.needs_input_grad[0], *ctx.needs),
        task_weights=(ctx.needs_input_grad[_TASK_WEIGHTS], arguments.reads_unweighted),
    )
    if ctx.needs_input_grad[0]:
        gradients[:1] = ctx.held.scaled(upstream, arguments, wanted_now(ctx, ctx.needs))
    if ctx.needs_input_grad[_TASK_WEIGHTS]:
        gradients[_TASK_WEIGHTS] = task_weights_gradient(arguments, sums, upstream)
    return tuple(gradients)


gtw_cross_entropy_op.register_autograd(_backward, setup_context=_setup_context)
refuse_vmap(gtw_cross_entropy_op)


class GTWCrossEntropy(torch.autograd.Function):
    """`gtw_cross_entropy_op` for a plain call."""

    # Not by setup_context, for which torch asks the signature of forward in every call.
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """Returns `LossOutputs`."""
        output = _forward(*inputs)
        _setup_context(ctx, inputs, output)
        return output[:-1]

    backward = staticmethod(_backward)


class InplaceGTWCrossEntropy(torch.autograd.Function):
    """`gtw_cross_entropy_op` with the gradient written over the logits, which no operator may declare."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *row_arguments: Any) -> tuple[Tensor, ...]:
        """Returns `LossOutputs`; `logits` (R, V) hold their gradient afterwards."""
        outputs = _compute(logits, RowArguments(*row_arguments), logits)
        # What saved the logits for its own backward pass finds them changed, and raises.
        torch.autograd.graph.increment_version(logits)
        _setup_context(ctx, (logits, *row_arguments, True), (*outputs, logits.detach()))
        ctx.held.version = logits._version
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients of `gtw_cross_entropy_op`."""
        return _backward(ctx, *upstream)
