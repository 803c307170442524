"""The loss at the logits level: the model's own `loss_function`, which works with any class that calls it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cotbal.step_loss import StepLoss


def install_logits_level(model: nn.Module, step_loss: StepLoss) -> Callable[[], None]:
    """Makes `step_loss` the model's loss function within its micro-batches; returns what undoes that.

    Args:
        model: a transformers model, bare or wrapped by PEFT.
        step_loss: asked whether a micro-batch is running; outside of one the model's own loss is computed.

    Raises:
        ValueError: the model has no `loss_function`, or carries this one already.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(model, "loss_function"):
        raise ValueError(
            f"model: expected a transformers model with a `loss_function`, got {type(model).__name__}; "
            "transformers has it from 4.52 on for the classes that compute their loss by it"
        )
    own = model.__dict__.get("_loss_function")
    original = model.loss_function
    if hasattr(original, "step_loss"):
        raise ValueError("model: it computes cotbal's loss already; restore it first")

    def loss_function(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not step_loss.is_active:
            return original(logits, labels, *args, **kwargs)
        shift_labels = kwargs.get("shift_labels")
        targets = labels if shift_labels is None else shift_labels
        return step_loss.on_logits(logits, targets.to(logits.device), shift=shift_labels is None)

    def restore() -> None:
        if own is None:
            del model._loss_function
        else:
            model.loss_function = own

    loss_function.step_loss = step_loss  # type: ignore[attr-defined]
    model.loss_function = loss_function
    return restore
