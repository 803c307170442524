"""TRL's SFTTrainer, without importing TRL for those who do not use it."""

import sys
from functools import partial
from typing import Any

import torch
from transformers import Trainer

_NAME = "trl.trainer.sft_trainer"


def is_sft_trainer(trainer: object) -> bool:
    """Whether it is an SFTTrainer, or of a class made from it."""
    module = _module()
    return module is not None and isinstance(trainer, module.SFTTrainer)


def past_sft(trainer: Any, compute_loss: Any) -> Any:
    """`compute_loss`, or `Trainer`'s where it is SFTTrainer's: that has a head of its own, past the model's.

    A class's own that stands before SFTTrainer's stays.
    """
    module = _module()
    if module is None or getattr(compute_loss, "__func__", None) is not module.SFTTrainer.compute_loss:
        return compute_loss
    return partial(Trainer.compute_loss, trainer)


def computes_its_loss_in(model: torch.nn.Module) -> bool:
    """Whether TRL has put a forward of its own, its loss in it, in the place of the model's."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return any(getattr(forward, "__module__", None) == _NAME for forward in forwards)


def _module() -> Any:
    return sys.modules.get(_NAME)
