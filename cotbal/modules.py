"""The losses as modules that hold their task weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cotbal._inputs import has_values, held_weights
from cotbal.losses import gtw_cross_entropy, linear_gtw_cross_entropy


class _WeightedLoss(nn.Module):
    """Holds task weights in float32 whatever the module is cast to: they are no parameter and no buffer."""

    def __init__(self, task_weights: Tensor | Sequence[float] | None = None, **options: Any) -> None:
        super().__init__()
        self._weights = None if task_weights is None else _held(task_weights)
        self.options = options

    def weights_on(self, device: torch.device) -> Tensor | None:
        """The weights (N,) on `device`; copied there once."""
        if self._weights is None or self._weights.device == device:
            return self._weights
        if device.type == "meta":
            # There they would lose their values.
            return self._weights.to(device)
        # A tensor of inference mode could not be trained with afterwards.
        with torch.inference_mode(False):
            self._weights = self._weights.to(device)
        return self._weights

    def extra_repr(self) -> str:
        """The weights and options, for `print(module)`."""
        weights = None if self._weights is None else self._weights.tolist()
        return ", ".join(
            f"{name}={value!r}" for name, value in ({"task_weights": weights} | self.options).items()
        )


def _held(task_weights: Any) -> Tensor:
    """The weights (N,) as a float32 tensor of the module's own.

    Raises:
        TypeError: no sequence of numbers, or numbers of 16 bits.
        ValueError: a shape, a value or a gradient that cannot be right, or a tensor without values.
    """
    if isinstance(task_weights, Tensor) and task_weights.is_meta:
        raise ValueError(
            "task_weights: expected values, got a tensor of the meta device, which torch.tensor makes while "
            "from_pretrained builds a model; pass the numbers as a list"
        )
    # Of torch.tensor too, where a model is built in bfloat16.
    if isinstance(task_weights, Tensor) and task_weights.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            "task_weights: expected float32 (16-bit floats would round the weights), got "
            f"{task_weights.dtype}; pass the numbers as a list, or a float32 tensor of them"
        )
    if isinstance(task_weights, Tensor) and task_weights.requires_grad:
        raise ValueError(
            "task_weights: expected constants, got a tensor that requires grad, which the module would not "
            "pass on; pass task_weights.detach(), or call the function with it"
        )
    if isinstance(task_weights, Mapping | str):
        raise TypeError(
            f"task_weights: expected a tensor or a sequence of numbers, got {type(task_weights).__name__}; "
            "use TaskWeights(...).to_tensor(tasks), tasks in the order of the ids"
        )
    with torch.inference_mode(False):
        # A model is made on the meta device by from_pretrained, which does not know of these.
        if not isinstance(task_weights, Tensor):
            task_weights = torch.as_tensor(task_weights, dtype=torch.float64, device="cpu")
        weights = held_weights("task_weights", task_weights).clone()
    if weights.ndim != 1 or not weights.numel():
        raise ValueError(f"task_weights: expected shape (N,), got {tuple(weights.shape)}")
    # Elsewhere the loss asserts it, without a synchronisation.
    is_read = has_values(weights) and weights.device.type == "cpu"
    if is_read and not (weights.isfinite() & (weights >= 0)).all():
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
