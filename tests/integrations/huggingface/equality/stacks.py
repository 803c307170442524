"""What each way of sharding needs around a Trainer, on processes without a GPU."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from tests.integrations.huggingface.equality.model import tiny_model, trained, with_adapters
from tests.integrations.huggingface.equality.outcome import Parameters
from tests.integrations.huggingface.equality.rows import Row

CONFIGURATIONS = Path(__file__).parents[4] / "integrations" / "deepspeed"


@contextmanager
def environment(row: Row) -> Iterator[None]:
    """What a launcher would set, for one row; afterwards the process is as it was."""
    before = dict(os.environ)
    if row.ranks > 1:
        rank = str(dist.get_rank())
        os.environ.update(
            RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=str(row.ranks), LOCAL_WORLD_SIZE=str(row.ranks)
        )
        # Nobody listens there: the process group exists already.
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    AcceleratorState._reset_state(reset_partial_state=True)
    if row.needs_deepspeed:
        start_deepspeed()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        AcceleratorState._reset_state(reset_partial_state=True)
        import_module("transformers.integrations.deepspeed").unset_hf_deepspeed_config()


def start_deepspeed() -> None:
    """Lets accelerate see DeepSpeed over gloo on the CPU: it would take it for one process."""
    deepspeed = import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Shared-memory collectives are compiled at the first use, in 40 s; gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    os.environ.update(ACCELERATE_TORCH_DEVICE="cpu", ACCELERATE_USE_DEEPSPEED="true")
    PartialState(backend="gloo")


def arguments(row: Row, folder: Path) -> TrainingArguments:
    """The TrainingArguments of `row`: plain gradient descent in the samples' order."""
    options: dict[str, Any] = {"use_cpu": True}
    if row.stack.startswith("zero"):
        options = {"deepspeed": zero(row), "accelerator_config": {"use_configured_state": True}}
    if row.stack == "fsdp2":
        options["fsdp"] = "full_shard"
        options["fsdp_config"] = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    made = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=row.per_device,
        gradient_accumulation_steps=row.accumulation,
        num_train_epochs=1,
        learning_rate=row.learning_rate,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=row.clip,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        average_tokens_across_devices=True,
        dataloader_pin_memory=False,
        **options,
    )
    if row.stack == "fsdp2" or row.replicas > 1:
        # accelerate gives these to processes with a GPU each; all behind that question runs on a CPU too.
        assert made.distributed_state.distributed_type == DistributedType.MULTI_CPU
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return made


def zero(row: Row) -> dict[str, Any]:
    """The shipped configuration, for plain gradient descent on a tiny model."""
    stage = _stage(row)
    configuration = json.loads((CONFIGURATIONS / f"zero{max(stage, 2)}.json").read_text())
    configuration["gradient_clipping"] = row.clip
    configuration["zero_optimization"]["stage"] = stage
    if stage == 3:
        # Else the parameters of a tiny model stay whole.
        configuration["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return configuration


def _stage(row: Row) -> int:
    return int(row.stack[len("zero")])


def model_of(row: Row, folder: Path) -> nn.Module:
    """The tiny model, whole or, "at load", this rank's shards."""
    if not row.stack.endswith(" at load"):
        return tiny_model(row.lora, row.tied)
    model = tiny_model(tied=row.tied)
    if dist.get_rank() == 0:
        model.save_pretrained(folder)
    dist.barrier()
    options = {}
    if row.stack == "fsdp2 at load":
        options["distributed_config"] = import_module("transformers.distributed").DistributedConfig(
            fsdp_size=row.ranks // (row.replicas * row.copies),
            dp_replicate_size=row.copies,
            tp_size=row.replicas,
        )
    model = type(model).from_pretrained(folder, **options)
    assert row.stack == "fsdp2 at load" or all(hasattr(each, "ds_id") for each in model.parameters())
    return with_adapters(model) if row.lora else model


def check_stack(row: Row, trainer: Trainer) -> None:
    """Asserts that `trainer` has trained on the stack that `row` names: they fall back in silence."""
    wrapped = trainer.model_wrapped
    assert trainer.accelerator.num_processes == row.ranks
    if row.stack.startswith("zero"):
        assert wrapped.zero_optimization_stage() == _stage(row)
        assert wrapped.gradient_clipping() == row.clip
    elif row.stack.startswith("fsdp2"):
        assert any(isinstance(parameter, DTensor) for parameter in wrapped.parameters())
    else:
        assert isinstance(wrapped, DistributedDataParallel) == (row.ranks > 1)


def whole_parameters(model: nn.Module) -> Parameters:
    """Copies of the parameters that train, gathered from all ranks."""
    parameters = trained(model)
    with ExitStack() as stack:
        if any(hasattr(parameter, "ds_id") for parameter in parameters.values()):
            stack.enter_context(import_module("deepspeed").zero.GatheredParameters(list(parameters.values())))
        return {name: _whole(parameter) for name, parameter in parameters.items()}


def _whole(parameter: Tensor) -> Tensor:
    parameter = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return parameter.detach().clone()
