"""The loss of one micro-batch under the denominator of its step: what a model's loss position calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from cotbal._calls import TaskStats
from cotbal._float64 import widest_float
from cotbal.losses import gtw_cross_entropy, linear_gtw_cross_entropy


class StepLoss:
    """Eq. 2 over a whole optimizer step, computed micro-batch by micro-batch: sum_r w_r c_r / denominator.

    The weights and the denominator are constants of the step (`begin_step`), the task ids of a micro-batch
    are set around the model's call (`micro_batch`), and the model's loss position calls `on_logits` or
    `on_hidden` with what only it has. Sums per task gather on the device until `take_sums`.

    Args:
        n_tasks: N.
        ignore_index: the label of a row that counts nowhere.
        label_smoothing: eps in 0..1, as in `gtw_cross_entropy`.
        z_loss: zeta >= 0, as in `gtw_cross_entropy`.
        impl: "auto", "triton", "torch" or "reference".
        memory_budget: as in `linear_gtw_cross_entropy`.

    Attributes:
        auxiliary_share: of the step, as in `begin_step`.

    Example:
        >>> step_loss = StepLoss(2)
        >>> logits, labels = torch.randn(2, 5, 11, requires_grad=True), torch.randint(11, (2, 5))
        >>> step_loss.begin_step(torch.tensor([0.8, 1.2]), torch.tensor(4 * 0.8 + 4 * 1.2))
        >>> with step_loss.micro_batch(torch.tensor([0, 1])):
        ...     step_loss.on_logits(logits, labels).backward()
        >>> step_loss.take_sums().token_count.tolist()
        [4, 4]
    """

    def __init__(
        self,
        n_tasks: int,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        impl: str = "auto",
        memory_budget: int | str | None = None,
    ) -> None:
        if n_tasks < 1:
            raise ValueError(f"n_tasks: expected at least 1, got {n_tasks}")
        self.n_tasks = n_tasks
        self.ignore_index, self.label_smoothing, self.z_loss = ignore_index, label_smoothing, z_loss
        self.impl, self.memory_budget = impl, memory_budget
        self._weights: Tensor | None = None
        self._denominator: Tensor | None = None
        self._loss_scale: Tensor | None = None
        self.auxiliary_share: float | None = None
        self._task_ids: Tensor | None = None
        self._valid_count: int | None = None
        self._calls = 0
        self._loss: Tensor | None = None
        self._sums: TaskStats | None = None

    @property
    def is_active(self) -> bool:
        """Whether a micro-batch is running: the loss position then computes this loss, not the model's."""
        return self._task_ids is not None

    def begin_step(
        self,
        weights: Tensor,
        denominator: Tensor,
        loss_scale: Tensor | None = None,
        auxiliary_share: float | None = None,
    ) -> None:
        """Sets the constants of the step.

        Args:
            weights: (N,) float32 or float64, finite and >= 0, on the device of the loss; on any GPU where
                that is one.
            denominator: 0-d float32 or float64, the whole step's weighted count over the factor k
                (`cotbal.normalizer.loss_factor`); 0 where no token of the step has any weight.
            loss_scale: 0-d float32 > 0, what the loss is multiplied by before the backward pass: that of a
                `GradScaler`. The gradient is formed in the forward pass, and float16 would round it to 0
                there; under the scale it is what the scaler wants. The loss itself comes unscaled.
            auxiliary_share: what a micro-batch's auxiliary loss is multiplied by, which is no sum over
                tokens: 1 / n of n micro-batches makes their mean of it. None: there may be none.

        Raises:
            ValueError: shapes that cannot be right, or called within a micro-batch.
        """
        if self.is_active:
            raise ValueError("begin_step: expected it before the step's micro-batches, got it within one")
        if weights.shape != (self.n_tasks,):
            raise ValueError(f"weights: expected the shape ({self.n_tasks},), got {tuple(weights.shape)}")
        if denominator.ndim != 0:
            raise ValueError(f"denominator: expected a 0-d tensor, got the shape {tuple(denominator.shape)}")
        # Copies: who counts the next step meanwhile may do so in the same tensors.
        self._weights, self._loss_scale = weights.detach().clone(), loss_scale
        self.auxiliary_share = auxiliary_share
        denominator = denominator.detach()
        self._denominator = denominator.clone() if loss_scale is None else denominator / loss_scale
        # Not in the micro-batch: a compiled model would be traced anew where the sums begin.
        if self._sums is None:
            self._sums = self._zeros()

    @contextmanager
    def micro_batch(self, task_ids: Tensor, valid_count: int | None = None) -> Iterator[None]:
        """Around the model's call on a micro-batch: the loss position is ours within.

        Args:
            task_ids: int64, of the labels' shape or one per leading sample (B,).
            valid_count: at least the number of valid labels, which saves a GPU one synchronisation.

        Raises:
            ValueError: before the first `begin_step`, or within another micro-batch.
            TypeError: the ids are no tensor.
            RuntimeError: the model did not call the loss exactly once.
        """
        if not isinstance(task_ids, Tensor):
            got = type(task_ids).__name__
            raise TypeError(f"task_ids: expected a tensor, got {got}; use torch.tensor(...)")
        if self._weights is None:
            raise ValueError("micro_batch: expected begin_step before the first micro-batch of a step")
        if self.is_active:
            raise ValueError("micro_batch: expected one micro-batch at a time, got one within another")
        self._task_ids, self._valid_count, self._calls = task_ids, valid_count, 0
        try:
            yield
            calls = self._calls
        finally:
            self._task_ids = self._valid_count = self._loss = None
        if calls != 1:
            raise RuntimeError(
                f"the model called its loss {calls} times in a micro-batch, expected once; does it get its "
                "labels, and does it compute its loss by `self.loss_function` (a forward that was patched "
                "since, as Liger's, does not)?"
            )

    def leads_to(self, trained_on: Tensor) -> bool:
        """Whether the micro-batch's loss is in the graph of `trained_on`; True where none can tell.

        Raises:
            ValueError: the micro-batch's loss is in no graph, and `trained_on` is in one.
        """
        ours = None if self._loss is None else self._loss.grad_fn
        if self._loss is not None and ours is None and trained_on.grad_fn is not None:
            raise ValueError(
                "micro_batch: expected a loss with a gradient, got one that was computed without: the "
                "backward pass makes it anew, as the model's own loss; checkpoint the layers, not the "
                "whole model"
            )
        nodes = [trained_on.grad_fn]
        seen = set(nodes)
        # First in, first out: it is a step or two away where all is well.
        for node in nodes:
            if ours is None or node is ours:
                return True
            following = () if node is None else node.next_functions
            nodes += [each for each, _ in following if each not in seen]
            seen.update(each for each, _ in following)
        return False

    def on_logits(
        self, logits: Tensor, labels: Tensor, *, shift: bool = True, softcap: float | None = None
    ) -> Tensor:
        """Returns sum_r w_r c_r / denominator of this micro-batch, 0-d float32 with its graph.

        Args:
            logits: (..., V).
            labels: (...) int64.
            shift: whether position t predicts t + 1; False where the labels are shifted already.
            softcap: > 0, not yet applied to the logits.
        """
        task_ids, weights, denominator = self._constants(logits.device)
        result = gtw_cross_entropy(
            logits,
            labels,
            task_ids,
            weights,
            denominator=denominator,
            ignore_index=self.ignore_index,
            shift=shift,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=softcap,
            return_stats=True,
            impl=self.impl,
        )
        return self._noted(result)

    def on_hidden(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        *,
        bias: Tensor | None = None,
        shift: bool = True,
        softcap: float | None = None,
    ) -> Tensor:
        """Returns `on_logits(hidden @ weight.T + bias, ...)` without all the logits.

        Args:
            hidden: (..., D).
            weight: (V, D).
            labels: (...) int64.
            bias: (V,).
            shift: whether position t predicts t + 1; False where the labels are shifted already.
            softcap: > 0, not yet applied.
        """
        task_ids, weights, denominator = self._constants(hidden.device)
        result = linear_gtw_cross_entropy(
            hidden,
            weight,
            labels,
            task_ids,
            weights,
            bias=bias,
            denominator=denominator,
            ignore_index=self.ignore_index,
            shift=shift,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=softcap,
            return_stats=True,
            impl=self.impl,
            memory_budget=self.memory_budget,
            # A compiled model would be traced anew for each of them.
            valid_count=None if torch.compiler.is_compiling() else self._valid_count,
        )
        return self._noted(result)

    def take_sums(self) -> TaskStats:
        """Returns the (N,) sums of this rank since the last take, and starts anew; nothing is waited for.

        Loss sums are float64, float32 on Apple's MPS. Before the first micro-batch all are 0.
        """
        sums, self._sums = self._sums, None
        return self._zeros() if sums is None else sums

    def _zeros(self) -> TaskStats:
        device = None if self._weights is None else self._weights.device
        tokens, correct = torch.zeros(2, self.n_tasks, dtype=torch.int64, device=device).unbind()
        return TaskStats(tokens.to(widest_float(tokens.device)), tokens, correct)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Task ids, weights and denominator; on the GPU of the head, where a model is spread over several."""
        if self._task_ids is None or self._weights is None or self._denominator is None:
            raise ValueError("the loss was called outside of `micro_batch`; expected it within one")
        task_ids, weights = _beside(self._task_ids, device), _beside(self._weights, device)
        return task_ids, weights, _beside(self._denominator, device)

    def _noted(self, result: Tensor | tuple[Tensor, TaskStats]) -> Tensor:
        # With return_stats it is always the pair.
        loss, stats = cast("tuple[Tensor, TaskStats]", result)
        sums = self._zeros() if self._sums is None else self._sums
        self._sums = TaskStats(
            *(old + _beside(new, old.device) for old, new in zip(sums, stats, strict=True))
        )
        # A trainer adds losses up where it keeps its own, and asks whether it gets this very one.
        loss = _beside(loss, sums.loss_sum.device)
        self._calls += 1
        # A compiled model has its loss in the graph of the whole.
        self._loss = None if torch.compiler.is_compiling() else loss
        return loss if self._loss_scale is None else loss / self._loss_scale


def _beside(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, which is another GPU; what a host and a GPU had to wait for stays where it is."""
    return tensor.to(device) if tensor.device.type == device.type else tensor
