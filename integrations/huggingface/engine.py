"""What accelerate and DeepSpeed make of a trainer's ranks, its precision and its loss."""

import logging
from typing import Any

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)


def tensor_parallel(trainer: Any) -> int:
    """How many ranks hold the same batch."""
    size = getattr(trainer, "get_tp_size", None)
    return size() if size is not None else getattr(trainer.model, "_tp_size", None) or 1


def tell_precision(trainer: Any) -> None:
    """Warns of a precision that the trainer's own arguments did not ask for.

    transformers 4 writes the one that is asked for into the environment, where later arguments find it. It is
    no error, as `accelerate launch` writes it there too.
    """
    args, found = trainer.args, trainer.accelerator.mixed_precision
    asked = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    # From transformers 5 on arguments hold their own.
    if hasattr(args, "mixed_precision") or found in (asked, "no") or not trainer.is_world_process_zero():
        return
    _logger.warning(
        "bf16, fp16: the training is in %s, where its arguments ask for %s: ACCELERATE_MIXED_PRECISION says "
        "so, which `accelerate launch` sets, and transformers 4 leaves there from other TrainingArguments of "
        "this process. Unless that is meant, set os.environ['ACCELERATE_MIXED_PRECISION'] = 'no' before "
        "these arguments are made",
        found,
        "neither" if asked == "no" else asked,
    )


def loss_scale(trainer: Any) -> Tensor | None:
    """What the loss of an fp16 run is multiplied by before its backward pass, 0-d float32; else None."""
    one = torch.ones((), dtype=torch.float32, device=trainer.args.device)
    if (scaler := trainer.accelerator.scaler) is not None:
        return scaler.scale(one)
    wrapped = getattr(trainer.accelerator, "deepspeed_engine_wrapped", None)
    if wrapped is not None and wrapped.engine.fp16_enabled():
        return one * float(wrapped.engine.optimizer.loss_scale)
    return None
