"""The tiny language model of the table, whole or with LoRA."""

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.integrations.huggingface.equality.samples import VOCABULARY


def tiny_model(lora: bool = False, tied: bool = False) -> nn.Module:
    """A Llama of 2 layers in float32, the same on every call; `tied`: its head is its embedding."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.1,
            attention_dropout=0.0,
            tie_word_embeddings=tied,
        )
    )
    # The residual stream carries the token itself to a head that knows it: repetition is likely, so that the
    # tasks' losses differ by their share of it.
    with torch.no_grad():
        if not tied:
            model.lm_head.weight.copy_(2 * model.model.embed_tokens.weight)
        model.model.embed_tokens.weight.mul_(2 if tied else 4)
    return with_adapters(model) if lora else model


def with_adapters(model: nn.Module) -> nn.Module:
    """`model` with LoRA on its body, the same on every call; only the adapters train."""
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets))


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
