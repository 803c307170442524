"""What runs the model that is looked at: torch itself, or an engine around it."""

from typing import Any, Protocol

from torch import Tensor, nn


class Runner(Protocol):
    """What runs a model: torch itself, or an engine around it."""

    def __call__(self, **batch: Any) -> Any:
        """The model's outputs."""

    def backward(self, loss: Tensor) -> None:
        """Makes the gradients."""

    def gradients(self) -> dict[str, Tensor]:
        """Each parameter's whole gradient, on the CPU."""

    def clear(self) -> None:
        """Drops the gradients."""


class Plain:
    """The model as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, **batch: Any) -> Any:
        """The model's outputs."""
        return self.model(**batch)

    def backward(self, loss: Tensor) -> None:
        """Makes the gradients."""
        loss.backward()

    def gradients(self) -> dict[str, Tensor]:
        """Each parameter's gradient, on the CPU."""
        return {name: p.grad.cpu() for name, p in self.model.named_parameters() if p.grad is not None}

    def clear(self) -> None:
        """Drops the gradients."""
        self.model.zero_grad(set_to_none=True)
