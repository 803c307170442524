"""The denominator of a whole optimizer step: every micro-batch of its window, every rank.

All of it follows from N numbers, the valid tokens of each task: the denominator of any weights is their dot
product with them. It needs labels and task ids only, so it is known before the first forward pass.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cotbal._calls import TaskStats
from cotbal._float64 import as_float64, float64_device
from csrc_triton.checks import require_each

# What each stack is. All average gradients over the ranks; the Trainer that passes num_items_in_batch to
# training_step divides by nothing else.
_STACKS = {
    "torch": "a loop of your own under DDP, FSDP, or DeepSpeed with its own accumulation off",
    "accelerate": "`accelerator.backward` in a loop of your own",
    "transformers>=4.52": "its Trainer",
    "transformers<4.46": "its older Trainer, as LLaVA's",
}
# The accelerator or the engine divides by the configured accumulation, in a short last window as well.
# Read in the Trainers of 4.37.2 to 4.45.2: nothing else divides what is differentiated.
_DIVIDE_BY_ACCUMULATION = ("accelerate", "transformers<4.46")


def loss_factor(stack: str, *, ranks: int, replicas: int = 1, accumulation: int = 1) -> int:
    """The factor k of a micro-batch's loss that undoes the averaging which a training stack does afterwards.

    Gradients then come out as of the sum over micro-batches and ranks. The denominator over k does the same.

    Args:
        stack: "torch" (a loop of your own under DDP, FSDP, or DeepSpeed with its own accumulation off),
            "accelerate" (`accelerator.backward` in a loop of your own), "transformers>=4.52" or
            "transformers<4.46" (their Trainers).
        ranks: the processes over which gradients are averaged.
        replicas: how many of them hold the same batch (tensor parallel).
        accumulation: the configured number of micro-batches per optimizer step.

    Raises:
        ValueError: an unknown stack, or replicas that do not divide the ranks.

    Example:
        >>> loss_factor("transformers>=4.52", ranks=8, replicas=2, accumulation=4)
        4
    """
    if stack not in _STACKS:
        known = ", ".join(f'"{name}" ({meaning})' for name, meaning in _STACKS.items())
        raise ValueError(f"stack: expected one of {known}, got {stack!r}")
    if ranks % replicas:
        raise ValueError(f"replicas: expected a divisor of the {ranks} ranks, got {replicas}")
    return ranks // replicas * (accumulation if stack in _DIVIDE_BY_ACCUMULATION else 1)


def task_token_counts(
    labels: Tensor,
    task_ids: Tensor,
    n_tasks: int,
    *,
    token_weights: Tensor | None = None,
    ignore_index: int = -100,
    shift: bool = False,
) -> Tensor:
    """The valid tokens of each task: (N,) int64, or float64 sums of their token weights.

    Nothing is waited for on CUDA. Sums are on the CPU where the device has no float64 (Apple's MPS).

    Args:
        labels: (..., S) int64; a token is valid where its label is not `ignore_index`.
        task_ids: int64 in 0..N-1, of the labels' shape or one per leading sample (B,).
        n_tasks: N.
        token_weights: of the labels' shape, summed in place of 1.
        ignore_index: the label of tokens that are not trained on.
        shift: whether position t predicts t + 1, so that a sequence's first label is no target.

    Raises:
        TypeError: labels or ids that are no tensor of signed integers: a trainer's cast to floats would round
            them.
        ValueError: shapes that do not fit; on a CPU, an id of a valid token out of range.

    Example:
        >>> task_token_counts(torch.tensor([[5, 2], [7, -100]]), torch.tensor([0, 2]), 3)
        tensor([2, 0, 1])
    """
    for name, values in (("labels", labels), ("task_ids", task_ids)):
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        # An unsigned label would never, or wrongly, equal an ignore_index below 0.
        if not isinstance(kind, torch.dtype) or kind.is_floating_point or not kind.is_signed:
            raise TypeError(
                f"{name}: expected a tensor of int64, got {kind}; make it "
                f"torch.as_tensor({name}, dtype=torch.int64)"
            )
    of_tokens = _per_token(task_ids, labels)
    if token_weights is not None and token_weights.shape != labels.shape:
        raise ValueError(
            f"token_weights: expected the labels' shape {tuple(labels.shape)}, "
            f"got {tuple(token_weights.shape)}"
        )
    start = 1 if shift else 0
    valid = labels[..., start:] != ignore_index
    of_tokens = of_tokens[..., start:]
    in_range = (of_tokens >= 0) & (of_tokens < n_tasks)
    expected = f"task_ids: expected values in 0..{n_tasks - 1} at valid tokens"
    require_each(in_range | ~valid, expected, of_tokens)
    tasks = torch.arange(n_tasks, device=labels.device)
    if token_weights is None and task_ids.shape != labels.shape:
        # Sample by sample: a mask of every task at every token is N times the batch.
        return torch.where(task_ids == tasks[:, None], valid.flatten(1).sum(1), 0).sum(1)
    of_task = ((of_tokens == tasks.reshape(-1, *[1] * labels.dim())) & valid).flatten(1)
    if token_weights is None:
        return of_task.sum(1)
    return as_float64(of_task) @ as_float64(token_weights[..., start:].flatten())


def _per_token(task_ids: Tensor, labels: Tensor) -> Tensor:
    if task_ids.shape == labels.shape:
        return task_ids
    if task_ids.shape != labels.shape[:1]:
        raise ValueError(
            f"task_ids: expected the labels' shape {tuple(labels.shape)} or one id per leading sample "
            f"{tuple(labels.shape[:1])}, got {tuple(task_ids.shape)}"
        )
    return task_ids.reshape(-1, *[1] * (labels.dim() - 1)).expand_as(labels)


class StepTotals(NamedTuple):
    """What all ranks know after the one collective of a step.

    Attributes:
        counts: (N,) float64, the step's valid tokens (or token weights) of each task.
        previous: sums of the step before over all ranks, each (N,) float64; None where none were handed in.
    """

    counts: Tensor
    previous: TaskStats | None


class StepNormalizer:
    """Counts an optimizer step's tokens per task over its micro-batches and ranks.

    Args:
        n_tasks: N.
        group: the ranks that hold parts of the step, data-parallel and sequence-parallel alike; None: all.
        replicas: how many ranks hold the same batch (tensor parallel): sums are divided by it.

    Example:
        >>> normalizer = StepNormalizer(2)
        >>> normalizer.add(torch.tensor([[5, 2, 7], [7, -100, 4]]), torch.tensor([0, 1]))
        >>> normalizer.total().counts @ torch.tensor([0.5, 2.0], dtype=torch.float64)
        tensor(3., dtype=torch.float64)
    """

    def __init__(self, n_tasks: int, *, group: dist.ProcessGroup | None = None, replicas: int = 1) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks: expected at least 1, got {n_tasks}")
        self.n_tasks, self.group, self.replicas = n_tasks, group, replicas
        self._counts: Tensor | None = None

    def add(
        self,
        labels: Tensor,
        task_ids: Tensor,
        *,
        token_weights: Tensor | None = None,
        ignore_index: int = -100,
        shift: bool = True,
    ) -> None:
        """Adds a micro-batch; the arguments are those of `task_token_counts`.

        Here `shift` is True by default: pass to the loss what is passed here, `gtw_cross_entropy` shifts on
        request only.
        """
        counts = task_token_counts(
            labels,
            task_ids,
            self.n_tasks,
            token_weights=token_weights,
            ignore_index=ignore_index,
            shift=shift,
        )
        counts = as_float64(counts)
        self._counts = counts if self._counts is None else self._counts + counts

    def total(
        self, previous: TaskStats | None = None, device: torch.device | str | None = None
    ) -> StepTotals:
        """Closes the window and returns its totals over all ranks, by one all-reduce of a few numbers.

        Every rank must call it, one without a micro-batch as well.

        Args:
            previous: this rank's sums of the step before, to be summed in the same collective.
            device: where the totals are wanted; by default where the labels were, or the current GPU where
                those were on the CPU and the collective is NCCL's. In place of one without float64 (Apple's
                MPS) it is the CPU.

        Returns:
            The totals, in float64.
        """
        counts = self.own(device)
        rows = torch.stack([as_float64(each).to(counts.device) for each in (counts, *(previous or ()))])
        rows = self._over_ranks(rows)
        return StepTotals(rows[0], TaskStats(*rows[1:]) if previous is not None else None)

    def own(self, device: torch.device | str | None = None) -> Tensor:
        """Closes the window and returns the counts of this rank alone, (N,) float64, without a collective."""
        counts, self._counts = self._counts, None
        device = None if device is None else float64_device(device)
        if counts is None:
            return torch.zeros(self.n_tasks, dtype=torch.float64, device=device)
        return counts.to(device or counts.device)

    def sums(self, stats: TaskStats) -> TaskStats:
        """Returns `stats` summed over all ranks, (N,) float64 each, by a collective of its own."""
        return TaskStats(*self._over_ranks(torch.stack([as_float64(each) for each in stats])))

    def _over_ranks(self, rows: Tensor) -> Tensor:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size(self.group) > 1:
            # Labels are often on the CPU, as the zeros of a rank without a micro-batch are.
            if rows.device.type == "cpu" and "nccl" in dist.get_backend_config(self.group):
                rows = rows.to(torch.device("cuda", torch.cuda.current_device()))
            dist.all_reduce(rows, group=self.group)
        return rows / self.replicas if self.replicas > 1 else rows
