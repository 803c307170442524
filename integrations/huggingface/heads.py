"""The model behind its wrappers: whether its loss is ours to take, and its head a plain product."""

import sys
from inspect import signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Those of their hooks that stand at a head gather its parameters, or keep watch over what is saved there.
_HOOKS_OF = ("torch.distributed.fsdp.", "torch.distributed._composable.", "deepspeed.", "accelerate.", "trl.")
# A list of one's own takes the place of the default, which has lm_head in it.
_ADDING = 'adding "lm_head" to llm_int8_skip_modules'
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# PEFT's tuners that do something around the model's forward, where our loss has been returned already.
_CHANGES_THE_LOSS = {
    "ADALORA": "adds a penalty to each micro-batch's loss, which the step's denominator does not cover",
    "SHADOW": "adds a loss of its own to each micro-batch's, which the step's denominator does not cover",
    "ADAPTION_PROMPT": "keeps the forward that the model had before, past the task weights",
}


class LinearLevelError(ValueError):
    """Why the linear level is not exact for this model, and what to do."""


def inner_model(model: nn.Module) -> Any:
    """The transformers model that owns `lm_head`, behind PEFT, DDP and `torch.compile`.

    Raises:
        TypeError: not a transformers model that has a `loss_function`.
        ValueError: PEFT's model trains on another loss than the one inside it.
    """
    from transformers import PreTrainedModel

    current: Any = model
    while not isinstance(current, PreTrainedModel):
        wrapped = _peft_base(current) if _is_peft(current) else _wrapped(current)
        if not isinstance(wrapped, nn.Module):
            raise TypeError(
                f"model: expected a transformers model with a loss function, got {type(current).__name__}; "
                "in your own loop call cotbal.linear_gtw_cross_entropy"
            )
        current = wrapped
    return current


def check_loss(model: Any) -> None:
    """Checks that the model's own loss is the one that ours takes the place of.

    Args:
        model: what `inner_model` returns.

    Raises:
        ValueError: it is another loss, or one of a user's own.
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    name = type(model).__name__
    if model.get_output_embeddings() is None and "labels" not in signature(model.forward).parameters:
        raise ValueError(
            f"model: expected a class that takes labels and has a head, got {name}, the body alone; load it "
            "by AutoModelForCausalLM or AutoModelForImageTextToText"
        )
    own = model.loss_function
    if own is not ForCausalLMLoss:
        raise ValueError(
            f"model: expected the loss of causal language models in {name}, "
            f"got {getattr(own, '__name__', own)}; a loss set by model.loss_function = ... would be dropped: "
            "take it out first"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model: expected a decoder, got the encoder-decoder {name}, whose labels do not shift"
        )


def plain_heads(model: Any) -> list[nn.Linear]:
    """The plain `torch.nn.Linear`s that a call of the head ends in: one, or PEFT's saved copies of it.

    Args:
        model: what `inner_model` returns.

    Raises:
        LinearLevelError: the head is not one of its own plain products with the vocabulary.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise LinearLevelError(f"{type(model).__name__} has no output embeddings (lm_head)")
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise LinearLevelError("lm_head is split over tensor-parallel ranks, each holds a part of the logits")
    saved = getattr(head, "modules_to_save", None) if _is_peft(head) else None
    # Every copy, not the active one alone: which one is active may change.
    heads = [head] if saved is None else [head.original_module, *saved.values()]
    for each in heads:
        _check_plain(each)
        _check_forward(model, each)
        _check_weight(each.weight)
    return heads


def _wrapped(module: Any) -> Any:
    # Of ms-swift's own tuners it is their base_model.
    inner = "base_model" if type(module).__name__ == "SwiftModel" else "module"
    return getattr(module, "_orig_mod", None) or getattr(module, inner, None)


def _peft_base(model: Any) -> Any:
    kind: Any = getattr(model, "peft_type", None)
    if (does := _CHANGES_THE_LOSS.get(getattr(kind, "value", ""))) is not None:
        raise ValueError(
            f"model: expected an adapter that leaves the model's loss as it is, got {kind.value}, which "
            f"{does}; use LoRA"
        )
    # PeftMixedModel has none of its own, and would ask the model that it wraps.
    own = getattr(type(model), "get_base_model", None)
    return model.base_model.model if own is None else own(model)


def _is_peft(module: nn.Module) -> bool:
    """Whether PEFT made it; who has not imported PEFT has no such module."""
    return "peft" in sys.modules and type(module).__module__.partition(".")[0] == "peft"


def _is_plain(head: nn.Linear) -> bool:
    """Whether a call of it is one product: bitsandbytes' and others' layers have a forward of their own."""
    return type(head).forward is nn.Linear.forward


def _check_plain(head: nn.Module) -> None:
    name = f"lm_head is a {type(head).__module__}.{type(head).__qualname__}"
    if _is_peft(head):
        base = getattr(head, "base_layer", None)
        # PEFT cannot train a copy of a head whose weights are integers.
        first = f", after {_ADDING}" if isinstance(base, nn.Linear) and not _is_plain(base) else ""
        raise LinearLevelError(
            f"{name}: an adapter adds to its logits. Train the head whole: take lm_head out of "
            f'target_modules and put it into modules_to_save{first}; or use level="logits"'
        )
    if not isinstance(head, nn.Linear) or not _is_plain(head):
        raise LinearLevelError(
            f"{name} (quantised, or with a forward of its own), not a plain torch.nn.Linear. "
            f'Where it is quantised, keep it whole by {_ADDING}; or use level="logits"'
        )


def _check_forward(model: Any, head: nn.Linear) -> None:
    # A pickle may have made an attribute of it.
    is_own = head.forward == MethodType(nn.Linear.forward, head)
    if not is_own and not _is_aligned(model, head):
        raise LinearLevelError(
            "lm_head's forward has been replaced (device_map with offloading, or another patch). "
            'Load the model on one device; or use level="logits"'
        )
    if (hook := changing_hook(head)) is not None:
        raise LinearLevelError(
            f"lm_head has the forward hook {hook}, which may change its logits. Remove it; or use "
            'level="logits"'
        )


def _is_aligned(model: Any, head: nn.Linear) -> bool:
    """Whether it was accelerate that replaced the forward, and moves nothing: all is on one device.

    Older versions do so in every layer of a quantised model.
    """
    hook: Any = getattr(head, "_hf_hook", None)
    own, devices = getattr(head, "_old_forward", None), getattr(model, "hf_device_map", None) or {}
    return (
        type(hook).__name__ == "AlignDevicesHook"
        and not hook.offload
        and len({*devices.values()}) == 1
        and getattr(own, "__func__", None) is nn.Linear.forward
        # Of a patch over accelerate's it is that one.
        and getattr(head.forward, "__wrapped__", None) == own
    )


def changing_hook(head: nn.Module) -> str | None:
    """The name of a forward hook that is not one of `_HOOKS_OF`: it would find no logits to change."""
    for hook in head._forward_hooks.values():
        function = getattr(hook, "func", hook)
        module = getattr(function, "__module__", None) or type(function).__module__
        if not f"{module}.".startswith(_HOOKS_OF):
            return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"
    return None


def _check_weight(weight: Tensor) -> None:
    # DTensor is FSDP2's shard: the parameter is whole while the head is called, as under ZeRO-3.
    kind = type(weight.data).__name__
    if kind not in ("Tensor", "DTensor") or weight.dtype not in _FLOATS:
        raise LinearLevelError(
            f"lm_head.weight is a quantised {kind} of {weight.dtype}. Keep lm_head out of the quantisation; "
            'or use level="logits"'
        )
