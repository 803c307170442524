"""The losses where each rank of a process group holds a piece of the vocabulary: collectives and autograd.

What goes over the wire is five numbers a row and rank, six with smoothing or statistics, and once the sum of
dX. Every rank gets the same loss, bit for bit, so it must call the loss and its backward pass as the others
do. Eager only.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from cotbal._arguments import LossOutputs, RowArguments
from cotbal._compute import Weighed, outputs_of, weigh, with_upstream
from cotbal.ops import (
    HeldGradients,
    refuse_second_derivative,
    save_rows,
    saved_rows,
    task_weights_gradient,
    wanted_now,
)
from csrc_triton import vocab_pieces
from csrc_triton.checks import require
from csrc_triton.linear_gtw_cross_entropy import linear_gtw_cross_entropy_forward
from csrc_triton.rows import scale_of
from csrc_triton.vocab_pieces import Piece

_N_FEATURES = 3
# After the level and what it needs.
_TASK_WEIGHTS = 2 + _N_FEATURES + RowArguments._fields.index("task_weights")

Features = tuple[Tensor, Tensor | None, Tensor | None]
Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class VocabGroup:
    """The ranks that share a vocabulary, in its order, and the piece of this one.

    Attributes:
        group: the process group; None is the default one.
        piece: the columns of this rank.
    """

    group: dist.ProcessGroup | None
    piece: Piece

    @classmethod
    def agree(
        cls,
        group: dist.ProcessGroup | None,
        vocab_range: tuple[int, int] | None,
        *,
        size: int,
        n_rows: int,
        device: torch.device,
    ) -> "VocabGroup":
        """Tells the other ranks which piece this one holds, before anything that depends on V is done.

        Args:
            group: the process group; None is the default one.
            vocab_range: (start, V), or None where all pieces are equal.
            size: the columns of this rank.
            n_rows: R, the same on every rank.
            device: where the logits are.

        Raises:
            ValueError: no process group; the pieces do not follow each other from 0 to V (on every rank; on
                CUDA a queued assertion fails).
        """
        rank, n_ranks = _place_in(group)
        start, n_cols = (rank * size, n_ranks * size) if vocab_range is None else _checked(vocab_range)
        # One by one: a list would be copied from the host, which waits for a GPU.
        mine = [torch.full((1,), number, device=device) for number in (start, start + size, n_cols, n_rows)]
        starts, ends, totals, rows = _gather(torch.cat(mine), group).unbind(1)
        follows = (starts[0] == 0) & (starts[1:] == ends[:-1]).all()
        require(
            follows & (totals == ends[-1]).all() & (rows == rows[0]).all(),
            "vocab_range: expected the same rows on every rank and pieces that follow each other from 0 to V "
            "in the order of the ranks, all equal where vocab_range is None; start, end, V and rows by rank",
            torch.stack([starts, ends, totals, rows], 1),
        )
        return cls(group, Piece(start, size, n_cols))

    @property
    def n_ranks(self) -> int:
        """How many ranks share the vocabulary."""
        return dist.get_world_size(self.group)

    def gather(self, values: Tensor) -> Tensor:
        """`values` (...) of every rank: (K, ...)."""
        return _gather(values, self.group)

    def sum_(self, values: Tensor) -> Tensor:
        """Overwrites `values` with their sum over the ranks."""
        dist.all_reduce(values, group=self.group)
        return values


def _place_in(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This process's rank in the group and the number of its ranks."""
    if torch.compiler.is_compiling():
        raise ValueError(
            "vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy: not under "
            "torch.compile; call the loss outside of the compiled part"
        )
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "group: expected a process group, got none; call torch.distributed.init_process_group first"
        )
    if hasattr(group, "get_group"):
        kind = type(group).__name__
        raise ValueError(f"group: expected a process group, got {kind}; pass its .get_group()")
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group: expected one that this process is in; call the loss on its ranks only")
    return rank, dist.get_world_size(group)


def _checked(vocab_range: tuple[int, int]) -> tuple[int, int]:
    is_pair = isinstance(vocab_range, tuple | list) and len(vocab_range) == 2
    if not is_pair or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in vocab_range):
        raise ValueError(f"vocab_range: expected (start, V), two ints, got {vocab_range!r}")
    return int(vocab_range[0]), int(vocab_range[1])


def _gather(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    gathered = values.new_empty(dist.get_world_size(group), *values.shape)
    dist.all_gather(list(gathered), values.contiguous(), group=group)
    return gathered


def _loss_on_piece(
    vocab: VocabGroup,
    weighed: Weighed,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns c and correct (C,) of whole rows; fills `gradient` (C, V_k), which may be `logits`."""
    arguments = weighed.arguments
    own_x = label_x = vocab_pieces.label_logits(logits, labels, vocab.piece, weights.dtype)
    # Smoothing counts from the label's logit and top-1 compares with it: then all must know it beforehand.
    if arguments.label_smoothing or arguments.want_correct:
        label_x = vocab.gather(own_x).sum(0)
    told = _statistics(weighed, vocab.piece, logits, labels, weights, label_x)
    statistics = vocab_pieces.combine(vocab.gather(torch.cat([told, own_x[None]])))
    return _losses(weighed, vocab.piece, logits, labels, weights, statistics, gradient)


def _statistics(
    weighed: Weighed, piece: Piece, logits: Tensor, labels: Tensor, weights: Tensor, label_x: Tensor
) -> Tensor:
    """What a rank tells of its piece: (4, C)."""
    arguments = weighed.arguments
    if arguments.impl == "triton":
        from csrc_triton import vocab_parallel as kernels

        return kernels.piece_statistics(
            logits,
            labels,
            label_x,
            weights,
            piece,
            arguments.options,
            want_correct=arguments.want_correct,
            ignore_index=arguments.ignore_index,
            reads_unweighted=arguments.reads_unweighted,
        )
    return vocab_pieces.piece_statistics(
        logits,
        labels,
        label_x,
        weighed.is_read(labels, weights),
        piece,
        arguments.options,
        want_correct=arguments.want_correct,
    )


def _losses(
    weighed: Weighed,
    piece: Piece,
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    statistics: Tensor,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns c and correct (C,) from the statistics (5, C) of whole rows; fills `gradient` of the piece."""
    arguments = weighed.arguments
    if arguments.impl == "triton":
        from csrc_triton import vocab_parallel as kernels

        return kernels.piece_losses(
            logits,
            labels,
            statistics,
            weights,
            weighed.divisor,
            piece,
            arguments.options,
            gradient=gradient,
            want_correct=arguments.want_correct,
            ignore_index=arguments.ignore_index,
            reads_unweighted=arguments.reads_unweighted,
        )
    return vocab_pieces.piece_losses(
        logits,
        labels,
        statistics,
        weighed.is_read(labels, weights),
        scale_of(weights, weighed.divisor),
        piece,
        arguments.options,
        gradient=gradient,
        want_correct=arguments.want_correct,
    )


class Level(Protocol):
    """What the loss is computed from."""

    recomputes: bool

    def compute(
        self,
        features: Features,
        arguments: RowArguments,
        needs: tuple[bool, ...],
        row_upstream: Tensor | None = None,
    ) -> tuple[LossOutputs, Gradients]:
        """Returns the loss and its gradients in the three features, as far as needed.

        Args:
            features: what the level is given.
            arguments: the rows.
            needs: which gradients are needed.
            row_upstream: (R,) factors of the rows' gradients, or None.
        """


@dataclass(frozen=True)
class LogitsLevel:
    """The loss on logits (R, V_k); the other two features are None."""

    vocab: VocabGroup
    # Each row's gradient can be scaled by what comes from above.
    recomputes = False

    def compute(
        self,
        features: Features,
        arguments: RowArguments,
        needs: tuple[bool, ...],
        row_upstream: Tensor | None = None,
    ) -> tuple[LossOutputs, Gradients]:
        """See `Level`."""
        logits = features[0]
        weighed = weigh(arguments, self.vocab.piece.n_cols, logits)
        gradient = logits.new_empty(logits.shape) if needs[0] else None
        losses, correct = _loss_on_piece(
            self.vocab, weighed, logits, weighed.rows.labels, weighed.weights, gradient
        )
        return outputs_of(weighed, losses, correct), (gradient, None, None)


@dataclass(frozen=True)
class LinearLevel:
    """The loss on hidden (R, D), a piece of the head (V_k, D) and of its bias.

    Attributes:
        vocab: the ranks.
        memory_budget: as in `linear_gtw_cross_entropy_forward`, for a piece of average size.
        valid_count: likewise.
    """

    vocab: VocabGroup
    memory_budget: int | str | None
    valid_count: int | None
    # The gradients are sums over the rows.
    recomputes = True

    def compute(
        self,
        features: Features,
        arguments: RowArguments,
        needs: tuple[bool, ...],
        row_upstream: Tensor | None = None,
    ) -> tuple[LossOutputs, Gradients]:
        """See `Level`. The partial dX of the ranks are summed in the accumulation dtype and rounded once."""
        hidden, weight, bias = features
        assert weight is not None
        vocab, weighed = self.vocab, weigh(arguments, self.vocab.piece.n_cols, hidden)

        def on_piece(
            z: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return _loss_on_piece(vocab, weighed, z, labels, weights, gradient)

        weights = weighed.weights if row_upstream is None else weighed.weights * row_upstream
        result = linear_gtw_cross_entropy_forward(
            hidden,
            weight,
            bias,
            weighed.rows.labels,
            weights,
            on_piece if row_upstream is None else with_upstream(on_piece, arguments.impl),
            read=weighed.read_apart(row_upstream),
            ignore_index=arguments.ignore_index,
            needs_hidden_gradient=needs[0],
            needs_weight_gradient=needs[1],
            needs_bias_gradient=needs[2],
            memory_budget=self.memory_budget,
            valid_count=self.valid_count,
            hidden_gradient_dtype=weighed.rows.dtype,
            first_col=vocab.piece.start,
            plan_cols=-(-vocab.piece.n_cols // vocab.n_ranks),
        )
        hidden_gradient = result.hidden_gradient
        if hidden_gradient is not None:
            hidden_gradient = vocab.sum_(hidden_gradient).to(hidden.dtype)
        outputs = outputs_of(weighed, result.losses, result.correct)
        return outputs, (hidden_gradient, result.weight_gradient, result.bias_gradient)


class VocabParallelLoss(torch.autograd.Function):
    """The loss of a `Level`, with gradients formed in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, level: Level, needs: tuple[bool, ...], *inputs: Any) -> tuple[Tensor, ...]:
        """Returns `LossOutputs`.

        Args:
            ctx: autograd's.
            level: what the loss is computed from.
            needs: whether the gradient in each of the features is needed.
            inputs: the three features, then the arguments of `RowArguments`.
        """
        features, arguments = inputs[:_N_FEATURES], RowArguments(*inputs[_N_FEATURES:])
        ctx.level, ctx.needs, ctx.held = level, needs, None
        ctx.set_materialize_grads(False)
        if level.recomputes and arguments.reduction == "none":
            # Each row will get a gradient of its own from above: the products are made anew then.
            outputs, _ = level.compute(features, arguments, (False,) * _N_FEATURES)
            save_rows(ctx, _TASK_WEIGHTS, arguments, outputs, *features)
        else:
            outputs, gradients = level.compute(features, arguments, needs)
            ctx.held = HeldGradients(gradients)
            save_rows(ctx, _TASK_WEIGHTS, arguments, outputs)
        ctx.mark_non_differentiable(*outputs[1:])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> Gradients:
        """The gradients in the features and the task weights."""
        refuse_second_derivative()
        gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if upstream is None:
            return tuple(gradients)
        arguments, sums, features = saved_rows(ctx)
        if ctx.held is not None and any(ctx.needs):
            gradients[2 : 2 + _N_FEATURES] = ctx.held.scaled(upstream, arguments, wanted_now(ctx, ctx.needs))
        elif any(ctx.needs):
            plain = arguments._replace(reduction="sum", want_correct=False, reads_unweighted=False)
            _, gradients[2 : 2 + _N_FEATURES] = ctx.level.compute(features, plain, ctx.needs, upstream)
        if ctx.needs_input_grad[_TASK_WEIGHTS]:
            gradients[_TASK_WEIGHTS] = task_weights_gradient(arguments, sums, upstream)
        return tuple(gradients)
