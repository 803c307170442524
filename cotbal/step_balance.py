"""What a trainer does once per optimizer step: count its tokens, weigh its tasks, hand its sums on."""

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cotbal._calls import TaskStats
from cotbal._float64 import float64_device, widest_float
from cotbal.balancing import Weights, as_weighting
from cotbal.meter import TaskMeter
from cotbal.normalizer import StepNormalizer
from cotbal.step_loss import StepLoss
from cotbal.tasks import task_names
from csrc_triton.checks import require

_UNTRAINED = (
    "labels: expected the step before to train once on the tokens that were counted for it, which divide its "
    "loss. Change labels in the collator; leave no micro-batch of a window out (a skipped training_step, an "
    "epoch that a callback stops within it), run none twice (compute_loss called by hand), call flush and "
    "logs between steps alone, and give the loss the `shift` of normalizer.add. Counted less trained on, by "
    "task: expected 0"
)


class StepBalance:
    """A weighting, the denominator of each optimizer step, its loss and the sums per task, run together.

    In each optimizer step: `normalizer.add` its micro-batches, `begin_step`, run them through `step_loss`.
    `check_trained` after `begin_step` says whether the step before kept to that. Both count and loss take
    position t to predict t + 1; where labels are shifted already, both need `shift=False`. After the last
    step `flush` stands in for `begin_step`. A checkpoint keeps `state_dict`; that of `weighting` alone lacks
    the last step.

    Args:
        tasks: task names in the order of their ids.
        weighting: the rule that the weights of each step come from, or the weights: a `Weighting`, whatever
            else `cotbal.balancing.as_weighting` takes. A rule that is bound already, as another balance's, is
            copied: each has tasks, last losses and a step of its own, which `weighting` shows.
        step_loss: what the model's loss position calls.
        device: where the loss is computed; what is kept of the steps is on the CPU beside Apple's MPS.
        group: the ranks that train, as in `StepNormalizer`; None: all.
        replicas: how many of them hold the same batch, likewise.
        per_device: count what this device alone has, without a collective; for weights that are constant.

    Example:
        >>> from cotbal.normalizer import loss_factor
        >>> from cotbal.step_loss import StepLoss
        >>> model = torch.nn.Linear(6, 11)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> balance = StepBalance(["VQAv2", "GQA"], {"VQAv2": 0.5, "GQA": 2.0}, StepLoss(2))
        >>> batch = torch.randn(2, 5, 6), torch.randint(11, (2, 5)), torch.tensor([0, 1])
        >>> for window in ([batch, batch], [batch, batch]):  # two micro-batches for each optimizer step
        ...     for _, labels, ids in window:
        ...         balance.normalizer.add(labels, ids)
        ...     denominator = balance.begin_step(loss_factor("torch", ranks=1))  # under DDP its ranks
        ...     balance.check_trained()
        ...     for hidden, labels, ids in window:
        ...         with balance.step_loss.micro_batch(ids):
        ...             loss = balance.step_loss.on_logits(model(hidden), labels)
        ...         loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> denominator  # of the last step: 8 tokens of each task
        tensor(20., dtype=torch.float64)
        >>> balance.logs()["task_tokens/GQA"]
        16.0
    """

    def __init__(
        self,
        tasks: Iterable[str],
        weighting: Weights,
        step_loss: StepLoss,
        *,
        device: torch.device | str = "cpu",
        group: dist.ProcessGroup | None = None,
        replicas: int = 1,
        per_device: bool = False,
    ) -> None:
        self.tasks = task_names(tasks)
        rule = as_weighting(weighting, self.tasks)
        # All that a rule remembers is made in `bind`, so that a copy shares none of it.
        self.weighting, self.step_loss = copy(rule) if rule.tasks else rule, step_loss
        self.device, self.per_device = torch.device(device), per_device
        self.group, self.replicas = group, replicas
        self.start()

    def start(self) -> None:
        """Starts afresh: the rule, the sums, and what a training that failed has left in them."""
        self.weighting.bind(self.tasks, float64_device(self.device))
        self.meter = TaskMeter(self.tasks)
        self.normalizer = StepNormalizer(len(self.tasks), group=self.group, replicas=self.replicas)
        self.step_loss.take_sums()
        self._weights = torch.empty(0)
        self._counts: Tensor | None = None
        self._untrained: Tensor | None = None
        self._has_open_step, self._is_agreed = False, False

    def begin_step(
        self, factor: int, loss_scale: Tensor | None = None, auxiliary_share: float | None = None
    ) -> Tensor:
        """Sets the weights and the denominator of the step whose micro-batches `normalizer` was given.

        The weights come from the sums of the steps before and the counts of this one, by one collective: all
        ranks make as many steps, as torch's `Join` does nothing here for one whose data has ended.

        Args:
            factor: k of `cotbal.normalizer.loss_factor`, the ranks under DDP, FSDP and DeepSpeed.
            loss_scale: as in `StepLoss.begin_step`.
            auxiliary_share: likewise.

        Returns:
            The denominator, 0-d float64: the weighted count of the step's tokens on all ranks (or this one).
        """
        counts = self.normalizer.own(self.device) if self.per_device else self._count()
        self._counts = counts
        self._weights = self.weighting.weights(counts)
        denominator = self._weights.double() @ counts
        # TLA weighs what was not counted by 0: left unread, a forgotten micro-batch would not be found.
        read = torch.where(counts > 0, self._weights, 1.0).to(self.device)
        divisor = (denominator / factor).to(widest_float(self.device)).to(self.device)
        self.step_loss.begin_step(read, divisor, loss_scale, auxiliary_share)
        self._has_open_step = True
        return denominator

    def check_ranks(self) -> None:
        """Checks that every rank of the group weighs alike: a collective, so every rank calls it.

        The first `begin_step` does, unless `per_device`.

        Raises:
            ValueError: another rank has other tasks, weights or another rule, and so another denominator.
        """
        self._is_agreed = True
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(self.group) == 1:
            return
        everywhere: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(everywhere, self.weighting.identity(), group=self.group)
        first = everywhere[0]
        for rank, other in enumerate(everywhere):
            if differing := [key for key in first if other[key] != first[key]]:
                one, two = ({key: each[key] for key in differing} for each in (first, other))
                raise ValueError(
                    f"weights: expected the same tasks, weights and rule on every rank, got {one} on rank 0 "
                    f"and {two} on rank {rank}; give each the same weights, and tasks=[...] where each draws "
                    "its own records"
                )

    def check_trained(self) -> None:
        """Checks that the last step whose sums were handed on trained on the tokens that it counted.

        Raises:
            ValueError: it did not, so its denominator was another's; on CUDA an assertion is queued.
        """
        if self._untrained is not None:
            require(~self._untrained.any(), _UNTRAINED, self._untrained)

    def flush(self) -> None:
        """Hands the last step's sums to the weighting and the meter: a collective, every rank calls it.

        Between steps alone: within one, what is left of it would count for the next.
        """
        if self._has_open_step:
            self._has_open_step = False
            self._settle(self.normalizer.sums(self.step_loss.take_sums()))

    def logs(self) -> dict[str, float]:
        """`TaskMeter.read` of all finished steps, after `flush`: a collective, between steps alone."""
        self.flush()
        return self.meter.read()

    def state_dict(self) -> dict[str, Any]:
        """The weighting's state as of the last step, as JSON values, after `flush`: likewise."""
        self.flush()
        return self.weighting.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned; `Weighting.load_state_dict`."""
        self.weighting.load_state_dict(saved)

    def _count(self) -> Tensor:
        """The step's tokens of each task on all ranks, after handing on the sums of the step before."""
        if not self._is_agreed:
            self.check_ranks()
        previous = self.step_loss.take_sums() if self._has_open_step else None
        totals = self.normalizer.total(previous, self.device)
        if totals.previous is not None:
            self._settle(totals.previous)
        return totals.counts

    def _settle(self, sums: TaskStats) -> None:
        # Counts of one device alone are those of its last micro-batch, the sums of all since the last flush.
        if self._counts is not None and not self.per_device:
            # Counted rows of weight 0 are not read, and stand in no sum.
            is_read = (self._weights > 0) | (self._counts == 0)
            self._untrained = (self._counts - sums.token_count) * is_read
        self.weighting.update(sums.loss_sum, sums.token_count)
        self.meter.add(sums, self._weights)
