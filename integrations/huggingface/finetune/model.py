"""The model to train: loaded, its vision tower frozen, or a LoRA on its language model."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from cotbal.integrations.huggingface.chat_template import ChatTemplate, Kind
from cotbal.integrations.huggingface.restored import DTYPE

# Within a vision tower what makes words of its patches, as of Qwen-VL and GLM-V.
_PROJECTORS = ("merger", "patch_merger", "merger_list", "deepstack_merger_list")


def load_model(
    name: str,
    kind: Kind,
    args: TrainingArguments,
    *,
    dtype: str,
    attention: str | None,
    has_lora: bool,
    bits: int | None = None,
) -> Any:
    """The model, on the CPU or as its engine shards it; a quantised one where it is trained.

    Args:
        name: a folder, or a name of the hub.
        kind: its auto class.
        args: the training's.
        dtype: of its parameters; `auto` as `dtype_of` has it.
        attention: an `attn_implementation` of transformers; None: its own choice.
        has_lora: whether it stays as it is under a LoRA.
        bits: 4 (NF4, its scales quantised too) or 8, by bitsandbytes; None: as it is.

    Raises:
        ImportError, OSError, ValueError: it cannot be loaded.
    """
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    own = options[DTYPE] = dtype_of(dtype, args, has_lora)
    if bits is not None:
        four = {
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": own,
        }
        options["quantization_config"] = BitsAndBytesConfig(
            **{f"load_in_{bits}bit": True} | (four if bits == 4 else {})
        )
        options["device_map"] = {"": args.device}
    model = kind.model.from_pretrained(name, **options)
    conversions = getattr(model, "_weight_conversions", None)
    if conversions and is_deepspeed_zero3_enabled():
        # There transformers keeps those that renamed nothing, and writes other names by them.
        model._weight_conversions = [each for each in conversions if each.was_used()]
    make_storable(model)
    # FSDP shards by these, and ends where one is of a part that this model has not, as CLIP's text tower.
    present = {type(module).__name__ for module in model.modules()}
    model._no_split_modules = [name for name in model._no_split_modules or () if name in present]
    return model


def make_storable(model: PreTrainedModel) -> None:
    """Lets a model be saved whose generation samples by values beside no `do_sample`, as Vicuna's has them.

    Raises:
        ValueError: its generation's values cannot be saved, nor could the model be.
    """
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config.do_sample = True
        try:
            model.generation_config.validate(strict=True)
        except ValueError as error:
            raise ValueError(
                f"--model: expected a generation_config.json that can be saved: {error}"
            ) from error


def dtype_of(name: str, args: TrainingArguments, has_lora: bool) -> torch.dtype:
    """The dtype of the parameters; "auto" is the training's where nobody rounds an update to it.

    Those are a LoRA's base, which stays, and what DeepSpeed keeps a float32 copy of. Otherwise float32.
    """
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    if has_lora or args.deepspeed:
        return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    return torch.float32


def language_model(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """The part of a model that reads text, without its head, and the part's name."""
    kind = type(model.config.get_text_config())
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel) and type(module.config) is kind:
            return name, module
    raise ValueError(f"--lora_rank: expected a language model in {type(model).__name__}, found none")


def vision_parts(model: nn.Module) -> Iterator[nn.Module]:
    """The vision tower, and those within it that have its configuration too; nothing of a model of text."""
    kind = type(getattr(getattr(model, "config", None), "vision_config", None))
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and type(module.config) is kind:
            yield module


def freeze_vision(model: PreTrainedModel) -> None:
    """Freezes the vision tower without its projector, as LLaVA's instruction tuning; else does nothing."""
    for module in vision_parts(model):
        module.requires_grad_(False)
        for name, part in module.named_children():
            if name in _PROJECTORS:
                part.requires_grad_(True)


def with_lora(
    model: PreTrainedModel, args: TrainingArguments, *, rank: int, alpha: int, dropout: float
) -> Any:
    """The model with a LoRA on each linear layer of its language model, head aside; nothing else is trained.

    Raises:
        ImportError: no PEFT.
        ValueError: it has no such layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(f"--lora_rank: a LoRA needs PEFT, got {error}: pip install peft") from error
    part, language = language_model(model)
    layers = {
        name.rpartition(".")[2] for name, each in language.named_modules() if isinstance(each, nn.Linear)
    }
    if not layers:
        raise ValueError(f"--lora_rank: expected linear layers in {part} of {type(model).__name__}, got none")
    if args.gradient_checkpointing:
        # Nothing before the first adapter needs a gradient, and a segment without one has no backward pass.
        model.enable_input_require_grads()
    names = "|".join(sorted(map(re.escape, layers)))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        # A vision tower's layers have the same names.
        target_modules=rf"{re.escape(part)}\.(?:.*\.)?(?:{names})",
    )
    return get_peft_model(model, config)


def stops_of(model: PreTrainedModel, template: ChatTemplate) -> list[str]:
    """The tokens at which generation ends, the tokenizer's own first.

    Raises:
        ValueError: there is none.
    """
    tokenizer = template.tokenizer
    if tokenizer.eos_token is None:
        raise ValueError(
            f"--model: expected a tokenizer with an end of text, got none in {type(tokenizer).__name__}"
        )
    ends = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    known = [id for id in ids if id is not None and id in tokenizer.added_tokens_decoder]
    return list(dict.fromkeys([tokenizer.eos_token, *map(str, tokenizer.convert_ids_to_tokens(known))]))
