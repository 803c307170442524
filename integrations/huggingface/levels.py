"""Where the loss of a model is computed: in `lm_head` (linear level), or from its logits (logits level)."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from cotbal.integrations.huggingface.acceptance import NotExactError, accepted_shape
from cotbal.integrations.huggingface.heads import LinearLevelError, check_loss, inner_model, plain_heads
from cotbal.integrations.huggingface.loss_position import LossPosition, check_installed
from cotbal.integrations.level_names import LEVELS
from cotbal.step_loss import StepLoss


@dataclass(frozen=True)
class Installed:
    """A loss in a model's loss position.

    Attributes:
        level: "linear" (the logits are never held whole) or "logits".
        reason: why this level, in words.
        restore: gives the model its own loss back.
    """

    level: str
    reason: str
    restore: Callable[[], None] = field(repr=False)


def install_loss(
    model: nn.Module, step_loss: StepLoss, level: str = "auto", *, holder: object | None = None
) -> Installed:
    """Put `step_loss` into the loss position of a transformers model, while its micro-batches run.

    Call it before the model is wrapped by DDP, FSDP or an engine, and after PEFT has put its adapters in.

    Args:
        model: a transformers model with a `loss_function` (4.52 or newer), PEFT's model of one, either inside
            `torch.compile` or DDP.
        step_loss: the loss of the step; the model's own loss runs where it has no micro-batch.
        level: "linear" computes the loss inside `lm_head`'s own call, in chunks; it is accepted only where
            loss and gradients of a random batch agree with the logits level to 1e-5. "logits" works with
            anything that calls its `loss_function`. "auto" takes linear exactly where it is accepted.
        holder: whose loss it is, as a trainer: once that is gone, another loss may take its place. None: it
            stays until `restore()`.

    Raises:
        TypeError: not a transformers model.
        ValueError: an unknown level, a model that has our loss already or another loss than that of causal
            language models, or level="linear" where it is not exact; the message says why and what to do.
    """
    if level not in LEVELS:
        raise ValueError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
    inner = inner_model(model)
    check_installed(inner)
    check_loss(inner)
    position, reason = LossPosition(inner, step_loss), 'level="logits" was asked for'
    if level != "logits":
        try:
            heads = plain_heads(inner)
            shape = accepted_shape(inner)
            position = LossPosition(inner, step_loss, heads, shape)
            reason = "loss and gradients of a random batch agree with the logits level"
            reason += f"; {shape} inside the loss" if str(shape) else ""
        except (LinearLevelError, NotExactError) as error:
            if level == "linear":
                raise ValueError(f'level="linear": {error}') from error
            reason = str(error)
    if holder is not None:
        position.holder = weakref.ref(holder)
    position.install()
    return Installed("linear" if position.heads else "logits", reason, position.restore)
