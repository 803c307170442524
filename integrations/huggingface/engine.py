"""What accelerate and DeepSpeed make of a trainer's ranks and its loss."""

from typing import Any

import torch
from torch import Tensor


def tensor_parallel(trainer: Any) -> int:
    """How many ranks hold the same batch."""
    size = getattr(trainer, "get_tp_size", None)
    return size() if size is not None else getattr(trainer.model, "_tp_size", None) or 1


def loss_scale(trainer: Any) -> Tensor | None:
    """What the loss of an fp16 run is multiplied by before its backward pass, 0-d float32; else None."""
    one = torch.ones((), device=trainer.args.device)
    if (scaler := trainer.accelerator.scaler) is not None:
        return scaler.scale(one)
    wrapped = getattr(trainer.accelerator, "deepspeed_engine_wrapped", None)
    if wrapped is not None and wrapped.engine.fp16_enabled():
        return one * float(wrapped.engine.optimizer.loss_scale)
    return None
