"""Tiny models in 4 and 8 bits, adapters on them, and Eq. 2 from their own logits."""

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
KINDS: dict[str, dict[str, Any]] = {
    "nf4 in bfloat16": {**_NF4, "bnb_4bit_compute_dtype": torch.bfloat16},
    "nf4 in float32": {**_NF4, "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}
# Of all gradients together. A body in bfloat16 rounds the gradients that come to it to 8 bits: a unit of
# their float32 may tip one over.
BOUNDS = {"nf4 in bfloat16": 2.0**-8, "nf4 in float32": 1e-5, "int8": 1e-5}
LOSS_BOUND = 1e-6


def quantised(
    model: PreTrainedModel, kind: str, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> PreTrainedModel:
    """The model as from_pretrained quantises it, by default from bfloat16; lm_head stays as it is."""
    config = BitsAndBytesConfig(**KINDS[kind], **options)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(
            folder, quantization_config=config, device_map={"": "cpu"}, dtype=dtype
        )


def adapted(
    model: PreTrainedModel, *, prepared: bool = True, reentrant: bool | None = None, **options: Any
) -> Any:
    """With a LoRA of random weights on all linear layers.

    Args:
        model: quantised.
        prepared: PEFT's `prepare_model_for_kbit_training` casts what is not quantised to float32.
        reentrant: with gradient checkpointing of that kind; None for none.
        options: of LoraConfig.
    """
    if prepared:
        model = peft.prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=reentrant is not None,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        )
    defaults = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": "all-linear", "init_lora_weights": False}
    return peft.get_peft_model(model, peft.LoraConfig(**(defaults | options))).train()


def eq2(model: nn.Module, batches: Sequence[dict[str, Tensor]], weights: Iterable[Sequence[float]]) -> Tensor:
    """sum w c / sum w in float64 over batches, from the model's own logits; a weight for each row."""
    total, mass = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch, of_row in zip(batches, weights, strict=True):
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        labels = batch["labels"][:, 1:]
        log_p = logits[:, :-1].double().log_softmax(-1)
        taken = log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        of_token = torch.tensor(of_row, dtype=torch.float64)[:, None] * (labels != -100)
        total, mass = total - (of_token * taken).sum(), mass + of_token.sum()
    return total / mass


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient(model: nn.Module) -> Tensor:
    """All gradients, in float64; a parameter that has none holds its place."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(model)]
    return torch.cat([each.flatten().double() for each in found])


def error(actual: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 0
    return float((actual - expected).norm() / expected.norm())
