"""Tiny models with routed experts, and what a step of theirs leads to, in plain torch."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.integrations.huggingface.level_cases import Size
from tests.integrations.huggingface.training import (
    LEARNING_RATE,
    VOCABULARY,
    WEIGHTS,
    Record,
    pad,
    parameters,
)

# Of the size of the loss itself: a wrong share is seen.
COEFFICIENT = 2.0
CLASSES = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3VLMoe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


def routed(name: str, *, adds: bool = True) -> Any:
    """A model whose routers do not choose evenly."""
    routing = {"output_router_logits": adds, "router_aux_loss_coef": COEFFICIENT, **CLASSES[name]}
    sizes = Size(VOCABULARY).language(initializer_range=0.2, **routing)
    torch.manual_seed(0)
    if name == "Qwen3VLMoe":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        tower = {
            "depth": 1,
            "num_heads": 2,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
        }
        tower |= {"patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        config = transformers.Qwen3VLMoeConfig(
            text_config={**sizes, "rope_parameters": rope}, vision_config={**tower, "in_channels": 3}
        )
        return transformers.Qwen3VLMoeForConditionalGeneration(config)
    config = getattr(transformers, f"{name}Config")(**sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


def by_hand(model: Any, windows: Sequence[Sequence[list[Record]]]) -> tuple[Tensor, list[float], list[float]]:
    """Parameters after a step of each window of micro-batches, each step's loss, and its routers' part."""
    losses, routers = [], []
    for window in windows:
        total, mass, router = torch.zeros(()), 0.0, torch.zeros(())
        for micro in window:
            batch = pad(micro)
            labels = batch.pop("labels")[:, 1:]
            outputs = model(**batch, output_router_logits=True)
            weights = torch.tensor([WEIGHTS[record["task"]] for record in micro])[:, None].expand_as(labels)
            rows = nn.functional.cross_entropy(
                outputs.logits[:, :-1].transpose(1, 2), labels, reduction="none"
            )
            is_valid = labels != -100
            total = total + (weights * rows * is_valid).sum()
            mass += float((weights * is_valid).sum())
            router = router + outputs.aux_loss
        part = COEFFICIENT * router / len(window)
        loss = total / mass + part
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= LEARNING_RATE * parameter.grad
        losses.append(loss.item())
        routers.append(part.item())
    return parameters(model), losses, routers


def cut(data: list[Record], batch: int, accumulation: int) -> list[list[list[Record]]]:
    """The windows of micro-batches of records in their order."""
    micros = [data[start : start + batch] for start in range(0, len(data), batch)]
    return [micros[start : start + accumulation] for start in range(0, len(micros), accumulation)]
