"""The methods of LLaVATrainer that the patch wraps, each as `hook(trainer, own, ...)` around its own one."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import numpy
import torch

from cotbal.integrations.huggingface.checkpoint import load_weighting, write_weighting
from cotbal.integrations.huggingface.collator import TASK_IDS
from cotbal.integrations.llava.training import ATTRIBUTE, LLaVATraining

Method = Callable[..., Any]


def wrapped(own: Method, hook: Method) -> Method:
    """The method that a class gets in place of `own`."""

    @wraps(own)
    def method(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        return hook(trainer, own, *args, **kwargs)

    return method


def training_of(trainer: Any) -> LLaVATraining:
    """What the patch added to a trainer.

    Raises:
        ValueError: it was constructed before the patch.
    """
    found = trainer.__dict__.get(ATTRIBUTE)
    if found is None:
        raise ValueError("LLaVATrainer: expected one constructed after cotbal.patch(), got an older one")
    return found


def _inner_training_loop(trainer: Any, own: Method, *args: Any, **kwargs: Any) -> Any:
    _cast_for_zero3(trainer)
    with training_of(trainer).running():
        return own(trainer, *args, **kwargs)


def _cast_for_zero3(trainer: Any) -> None:
    """Gives parameters that were made outside of `zero.Init` the precision of those inside.

    LLaVA makes its projector in float32 after the language model was made, and left it to ZeRO-3 to cast it.
    From DeepSpeed 0.19.2 on that casts nothing where a part is partitioned already, and stops at the mixture.
    """
    config, args = getattr(trainer.args, "hf_deepspeed_config", None), trainer.args
    if config is None or not config.is_zero3() or not (args.bf16 or args.fp16):
        return
    for parameter in trainer.model.parameters():
        if parameter.is_floating_point() and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(torch.bfloat16 if args.bf16 else torch.float16)


def _training_step(trainer: Any, own: Method, model: Any, inputs: dict[str, Any]) -> Any:
    return training_of(trainer).training_step(own, model, inputs)


def _compute_loss(
    trainer: Any, own: Method, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    def run(inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return own(trainer, model, inputs, *args, **kwargs)

    return training_of(trainer).compute_loss(run, inputs, *args, **kwargs)


def _prediction_step(
    trainer: Any, own: Method, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    inputs = {key: value for key, value in inputs.items() if key != TASK_IDS}
    return own(trainer, model, inputs, *args, **kwargs)


def _create_optimizer(trainer: Any, own: Method) -> Any:
    """Leaves out empty parameter groups.

    A projector's own learning rate makes groups, of which LoRA leaves one empty. DeepSpeed drops it after the
    scheduler has counted it: a newer torch stops there, an older one gives the groups behind it their
    neighbour's rate.
    """
    optimizer = own(trainer)
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


def _save_checkpoint(trainer: Any, own: Method, *args: Any, **kwargs: Any) -> None:
    # Here, where every rank comes: a collective.
    training_of(trainer).balance.flush()
    own(trainer, *args, **kwargs)


def _save_model(
    trainer: Any, own: Method, output_dir: str | None = None, _internal_call: bool = False
) -> None:
    """Writes the weighting's state into a checkpoint before its model, where the Trainer itself writes.

    In 4.37 that is tmp-checkpoint-N, renamed when all is there. A file in checkpoint-N would have it write
    there from the start, and a run that was killed then would go on from half a checkpoint.
    """
    if _internal_call and output_dir is not None and trainer.args.should_save:
        write_weighting(training_of(trainer).balance, output_dir)
    own(trainer, output_dir, _internal_call)


def _load_rng_state(trainer: Any, own: Method, checkpoint: str | None) -> None:
    """Lets torch read numpy's state, which the Trainer keeps in a pickle; from 2.6 on it would refuse."""
    # Since 2.5; an older torch reads any pickle.
    allow = getattr(torch.serialization, "safe_globals", None)
    like = numpy.empty(0, dtype=numpy.uint32)
    kinds = [like.__reduce__()[0], numpy.ndarray, numpy.dtype, type(like.dtype)]
    with nullcontext() if allow is None else allow(kinds):
        own(trainer, checkpoint)


def _load_optimizer_and_scheduler(trainer: Any, own: Method, checkpoint: str | None) -> None:
    own(trainer, checkpoint)
    if checkpoint is not None:
        load_weighting(training_of(trainer).balance, checkpoint)


HOOKS: dict[str, Method] = {
    "_inner_training_loop": _inner_training_loop,
    "training_step": _training_step,
    "compute_loss": _compute_loss,
    "prediction_step": _prediction_step,
    "create_optimizer": _create_optimizer,
    "_save_checkpoint": _save_checkpoint,
    "save_model": _save_model,
    "_load_rng_state": _load_rng_state,
    "_load_optimizer_and_scheduler": _load_optimizer_and_scheduler,
}
