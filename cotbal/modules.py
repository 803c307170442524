"""The losses as modules that hold their task weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cotbal.losses import gtw_cross_entropy, linear_gtw_cross_entropy


class _WeightedLoss(nn.Module):
    """Holds task weights in float32 whatever the module is cast to: they are no parameter and no buffer."""

    def __init__(self, task_weights: Tensor | Sequence[float] | None = None, **options: Any) -> None:
        super().__init__()
        self._weights = None if task_weights is None else _checked(task_weights)
        self.options = options

    def weights_on(self, device: torch.device) -> Tensor | None:
        """The weights (N,) on `device`; copied there once."""
        if self._weights is not None and self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights

    def extra_repr(self) -> str:
        """The weights and options, for `print(module)`."""
        weights = None if self._weights is None else self._weights.tolist()
        return ", ".join(
            f"{name}={value!r}" for name, value in ({"task_weights": weights} | self.options).items()
        )


def _checked(task_weights: Tensor | Sequence[float]) -> Tensor:
    """A copy of the weights (N,) in float32."""
    if isinstance(task_weights, Mapping | str):
        raise TypeError(
            f"task_weights: expected numbers in the order of the ids, got {type(task_weights).__name__}; "
            "pass TaskWeights(...).to_tensor(tasks)"
        )
    weights = torch.as_tensor(task_weights, dtype=torch.float32).detach().clone()
    if weights.ndim != 1 or not len(weights):
        raise ValueError(f"task_weights: expected shape (N,), got {tuple(weights.shape)}")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"task_weights: expected finite values >= 0, got {weights.tolist()}")
    return weights


class GTWLoss(_WeightedLoss):
    """`gtw_cross_entropy` as a module that holds the task weights.

    Args:
        task_weights: (N,) weights in the order of the task ids, a tensor or a sequence; None: all 1, no ids.
        options: keyword arguments of `gtw_cross_entropy` for every call.

    Example:
        >>> import torch, cotbal
        >>> criterion = cotbal.GTWLoss([0.8, 1.2])
        >>> loss = criterion(torch.randn(4, 11), torch.randint(11, (4,)), torch.tensor([0, 0, 1, 1]))
    """

    def forward(self, logits: Tensor, labels: Tensor, task_ids: Tensor | None = None, **options: Any) -> Any:
        """Returns `gtw_cross_entropy(logits, labels, task_ids, <weights>)`; `options` add to the module's."""
        weights = self.weights_on(logits.device)
        return gtw_cross_entropy(logits, labels, task_ids, weights, **(self.options | options))


class LinearGTWLoss(_WeightedLoss):
    """`linear_gtw_cross_entropy` as a module that holds the task weights; arguments as `GTWLoss`.

    Example:
        >>> import torch, cotbal
        >>> criterion, head = cotbal.LinearGTWLoss([0.8, 1.2]), torch.nn.Linear(8, 11, bias=False)
        >>> labels, task_ids = torch.randint(11, (4,)), torch.tensor([0, 0, 1, 1])
        >>> loss = criterion(torch.randn(4, 8), head.weight, labels, task_ids)
    """

    def forward(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, task_ids: Tensor | None = None, **options: Any
    ) -> Any:
        """Returns `linear_gtw_cross_entropy(hidden, weight, labels, task_ids, <the weights>)`; see there."""
        weights = self.weights_on(hidden.device)
        return linear_gtw_cross_entropy(hidden, weight, labels, task_ids, weights, **(self.options | options))
