"""Settings under which the numbers trained on would not be those of Eq. 2: an error each, with the remedy."""

from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_utils import has_length

from cotbal.integrations.huggingface.sft import computes_its_loss_in, is_sft_trainer

# PEFT's prompt learning that adds no positions to the labels.
_PREFIXES_OF_KEYS = ("PREFIX_TUNING", "CARTRIDGE")
# And whatever is layerwise.
_STEP_IN_BACKWARD = ("lomo", "adalomo")


def check_trainer(trainer: Any) -> None:
    """Checks a constructed `transformers.Trainer`.

    Raises:
        ValueError: a setting that the exact loss of the step cannot be right under.
    """
    _check_arguments(trainer.args)
    if trainer.compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func: expected None, got a function; it replaces the loss and never sees the "
            "tasks. Leave it out"
        )
    loss_type = getattr(trainer.args, "loss_type", "nll")
    if is_sft_trainer(trainer) and loss_type not in ("nll", "chunked_nll"):
        raise ValueError(
            f"loss_type: expected 'nll', got {loss_type!r}, another loss than cross-entropy, which the task "
            "weights would replace. Leave it out of the SFTConfig"
        )
    if is_sft_trainer(trainer) and computes_its_loss_in(trainer.model):
        raise ValueError(
            "loss_type: expected 'nll', got 'chunked_nll', the default of TRL 1.6 to 1.14: a loss in the "
            "model's forward, past the task weights. Pass SFTConfig(loss_type='nll'); the logits are not "
            "held whole then either, see trainer.installed"
        )
    if is_sft_trainer(trainer) and _packs(trainer.args):
        raise ValueError(
            "packing: expected False, got True: TRL packs the data set beforehand, without the tasks. "
            "Pass SFTConfig(padding_free=True, max_length=None), which packs each batch; a data set that you "
            "prepared yourself needs dataset_kwargs={'skip_prepare_dataset': True}"
        )
    _check_processes(trainer.accelerator.num_processes)
    peft = getattr(trainer.model, "active_peft_config", None)
    if peft is not None and peft.is_prompt_learning and peft.peft_type not in _PREFIXES_OF_KEYS:
        raise ValueError(
            f"model: expected no {peft.peft_type.value}, which puts tokens before the labels that the "
            "denominator would not count; use LoRA or prefix tuning"
        )
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    if parallelism is not None and (_enabled(parallelism, "cp") or _enabled(parallelism, "sp")):
        raise ValueError(
            "parallelism_config: expected no context or sequence parallelism, which compute the loss by "
            "themselves; hand each rank its shard with `shift_labels` in the batch instead"
        )


def check_steps(trainer: Any) -> None:
    """Checks that every rank makes as many steps in an epoch: the others would wait for one in vain.

    Raises:
        ValueError: they do not. A collective, so every rank calls it.
    """
    loader, accumulation = trainer.callback_handler.train_dataloader, trainer.args.gradient_accumulation_steps
    if trainer.accelerator.num_processes == 1 or not has_length(loader):
        return
    steps = torch.tensor([-(-len(loader) // accumulation)], device=trainer.args.device)
    everywhere = trainer.accelerator.gather(steps).tolist()
    if min(everywhere) != max(everywhere):
        raise ValueError(
            f"train_dataset: expected as many optimizer steps in an epoch on every rank, got {everywhere}; "
            "leave even_batches=True in accelerator_config, or pass dataloader_drop_last=True"
        )


def another_loss(trainer: Any, came: str) -> str:
    """What is said where `compute_loss` trains on another loss than the step's."""
    if not trainer.model.training:
        return (
            f"model: expected {type(trainer.model).__name__} in training mode, where the Trainer has put it, "
            "got it in evaluation mode, in which its loss is its own; give it its train() back, and to train "
            "without dropout set its probabilities to 0"
        )
    return (
        f"compute_loss: expected {type(trainer).__name__} to train on the loss of the step, got {came}: the "
        "task weights would have no effect. Return the loss of super().compute_loss, or of the model"
    )


def no_step(came: int, expected: int) -> str:
    """What is said where the data ends within the first step's window: the Trainer would end in peace."""
    if not came:
        return (
            "train_dataset: expected a micro-batch for the first optimizer step, got none; where it has "
            "records leave dataloader_drop_last out, or use a smaller per_device_train_batch_size"
        )
    return (
        f"train_dataset: expected the {expected} micro-batches of the first optimizer step, got {came}, so "
        "no epoch would make a step; use a smaller gradient_accumulation_steps, or repeat the records "
        "within an epoch"
    )


def step_within(step: int) -> str:
    """What is said where the Trainer made that step before the last micro-batch of its window."""
    return (
        f"step {step}: expected it after the last micro-batch of its window, got it before: its gradient "
        "lacks those to come, which its denominator counts. Leave gradient_accumulation_steps as it is "
        "during a training (a callback may have changed it)"
    )


def check_accumulation(trainer: Any, planned: int) -> None:
    """Checks that the windows are as long as the steps of the epochs were planned for.

    Raises:
        ValueError: they are not.
    """
    came = trainer.args.gradient_accumulation_steps
    if came != planned:
        raise ValueError(
            f"gradient_accumulation_steps: expected {planned}, by which the steps are planned, got "
            f"{came} after step {trainer.state.global_step}: epochs would leave data out. Leave it as it is "
            "during a training (a callback may have changed it)"
        )


def _check_processes(known: int) -> None:
    """Each process takes itself for the only one where accelerate was not told of the others."""
    group = dist.get_world_size() if dist.is_initialized() else 1
    if group > known:
        raise ValueError(
            f"num_processes: expected accelerate to know the {group} processes of the group, got {known}: "
            "nothing would average their gradients. On a CPU pass use_cpu=True"
        )


def _check_arguments(args: Any) -> None:
    theirs = type(args).__name__
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns: expected False, got True, which drops the tasks of the records; pass "
            f"{theirs}(remove_unused_columns=False)"
        )
    if args.label_smoothing_factor != 0:
        raise ValueError(
            f"label_smoothing_factor: expected 0, got {args.label_smoothing_factor}; the Trainer's smoothing "
            "bypasses the task weights. Pass label_smoothing=... to the trainer instead"
        )
    kernels = getattr(args, "liger_kernel_config", None) or {}
    if getattr(args, "use_liger_kernel", False) and kernels.get("fused_linear_cross_entropy", True):
        raise ValueError(
            "use_liger_kernel: expected Liger's kernels without its loss, got them with it, which never "
            "sees the tasks. Beside it pass "
            f"{theirs}(liger_kernel_config={{'fused_linear_cross_entropy': False}})"
        )
    steps_in_backward = args.optim in _STEP_IN_BACKWARD or args.optim.endswith("layerwise")
    if steps_in_backward and args.gradient_accumulation_steps > 1:
        raise ValueError(
            f"gradient_accumulation_steps: expected 1 with optim={args.optim.value!r}, which makes a step in "
            f"the backward pass of each micro-batch, got {args.gradient_accumulation_steps}: none would have "
            "the gradient of Eq. 2. Raise per_device_train_batch_size, or take another optimizer"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"n_gpu: expected one GPU per process, got {args.n_gpu}: DataParallel splits a batch without its "
            "step's denominator. Launch with `torchrun` or `accelerate launch`, or set CUDA_VISIBLE_DEVICES=0"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            f"average_tokens_across_devices: expected True with {args.world_size} processes, got False: the "
            "denominator of the step is that of all of them. Pass "
            f"{theirs}(average_tokens_across_devices=True)"
        )


def _packs(args: Any) -> bool:
    """Whether an SFTConfig has TRL pack the data set."""
    return args.packing and not (args.dataset_kwargs or {}).get("skip_prepare_dataset")


def _enabled(parallelism: Any, kind: str) -> bool:
    return bool(getattr(parallelism, f"{kind}_enabled", False))
