"""The settings in which LLaVA is trained, and how near to Eq. 2 the loss of a step must come in each."""

from collections.abc import Iterable
from dataclasses import replace

from tests.integrations.llava.cases import Case

_LORA = {"lora_enable": True, "lora_r": 8, "learning_rate": 0.1}
_TWO = {"gradient_accumulation_steps": 2}
_HALF = {"bf16": True}
# Cuts long captions and the third turn of a conversation, where 16 rows of an image stand before them.
_CUT = {"model_max_length": 128}
# Cuts every answer of "vqa", but only after the image was put in: the collator still counts them.
_EMPTY = {"model_max_length": 117, "per_device_train_batch_size": 2}
# A micro-batch of these has no label to learn from.
_CUT_OFF = [0, 3, 6, 7, 8, 13, 15, 18]

# float32: rounding of a mean over some hundred tokens. bfloat16: hidden states and weights are recorded as
# they are, but a head may hand over logits that were rounded to 8 bits.
BOUND = 1e-6
BOUNDS = {"bfloat16 near initialisation": 2e-5, "bfloat16": 1e-3}

ALONE = (
    Case("plain"),
    Case("LoRA", _LORA),
    Case("accumulation", _TWO),
    Case("truncation", _CUT),
    Case("accumulation and truncation", _TWO | _CUT),
    Case("sampler by modality", {"group_by_modality_length": True}),
    Case("two workers", {"dataloader_num_workers": 2}),
    Case("gradient checkpointing", {"gradient_checkpointing": True}),
    Case("logits level", patch={"level": "logits"}),
    Case("Mistral", model="mistral"),
    Case("bfloat16 near initialisation", _HALF, model="near_initialisation"),
    Case("bfloat16", _HALF),
    Case("empty micro-batches", _EMPTY | _TWO, order=[*_CUT_OFF[:2], 10, 1, *_CUT_OFF[2:6], 4, 14, 5, 29]),
)
TWO_RANKS = (
    Case("DDP"),
    Case("DDP with accumulation and truncation", _TWO | _CUT),
    # In the first step one rank has nothing to learn from, in the second both.
    Case("DDP with empty micro-batches", _EMPTY, order=[*_CUT_OFF[:2], 10, 1, *_CUT_OFF[2:6], 4, 14, 5, 29]),
    Case("ZeRO-2", zero=2),
    Case("ZeRO-3", zero=3),
    Case("ZeRO-3 with LoRA", _LORA, zero=3),
    Case("ZeRO-3 with accumulation and truncation", _TWO | _CUT, zero=3),
    Case("DDP in bfloat16", _HALF | _TWO),
    Case("ZeRO-2 in bfloat16", _HALF, zero=2),
    # As LLaVA's own scripts train.
    Case("ZeRO-3 in bfloat16", _HALF | _TWO | {"gradient_checkpointing": True}, zero=3),
    Case("ZeRO-3 in bfloat16 with LoRA", _HALF | _LORA, zero=3),
)
# The denominators that LLaVA itself is nearer to; two micro-batches a step on either of two ranks.
WORLD, MICRO = (Case(f"by {name}", _TWO, patch={"denominator": name}) for name in ("world", "micro"))
_LONG = {"max_steps": 8}
LONG_ALONE = tuple(
    Case(f"{name}, seed {seed}", options | _LONG | {"seed": seed}, model=model)
    for seed in (2, 3)
    for name, options, model in (
        ("windows of 5 that straddle epochs", {"gradient_accumulation_steps": 5} | _CUT, "scaled"),
        ("LoRA by modality", _LORA | _TWO | {"group_by_modality_length": True}, "scaled"),
        ("Mistral with truncation", _TWO | _CUT, "mistral"),
        (
            "two workers and checkpointing",
            _CUT | {"dataloader_num_workers": 2, "gradient_checkpointing": True},
            "scaled",
        ),
    )
)
LONG_TWO_RANKS = tuple(
    Case(name, options | _LONG | {"seed": 2}, zero=zero, patch=patch)
    for name, options, zero, patch in (
        ("DDP, windows of 5 that straddle epochs", {"gradient_accumulation_steps": 5}, 0, {}),
        ("DDP with LoRA by modality", _LORA | _TWO | {"group_by_modality_length": True}, 0, {}),
        ("DDP at the logits level", _TWO, 0, {"level": "logits"}),
        ("ZeRO-2, windows of 5 that straddle epochs", {"gradient_accumulation_steps": 5}, 2, {}),
        ("ZeRO-2 with LoRA and checkpointing", _LORA | {"gradient_checkpointing": True}, 2, {}),
        (
            "ZeRO-2 with two workers by modality",
            {"dataloader_num_workers": 2, "group_by_modality_length": True},
            2,
            {},
        ),
        ("ZeRO-3, windows of 5 that straddle epochs", {"gradient_accumulation_steps": 5} | _CUT, 3, {}),
        ("ZeRO-3 with LoRA, accumulation, truncation", _LORA | _TWO | _CUT, 3, {}),
        ("ZeRO-3 at the logits level", _TWO, 3, {"level": "logits"}),
        ("ZeRO-3 with checkpointing", {"gradient_checkpointing": True}, 3, {}),
    )
)


def bound(case: Case) -> float:
    return BOUNDS.get(case.name, BOUND)


def unpatched(case: Case) -> Case:
    """The same training by LLaVA alone."""
    return replace(case, name=f"{case.name}, not patched", weights=None)


def controls(cases: Iterable[Case]) -> list[Case]:
    """Those that LLaVA trains without the patch.

    Under DeepSpeed 0.19.8 not ZeRO and accumulation together, which accelerate 0.27.2 refuses, and not ZeRO-3
    in bfloat16, where LLaVA's projector is of another precision than the rest.
    """
    return [
        case
        for case in cases
        if not (case.zero and case.options.get("gradient_accumulation_steps", 1) > 1)
        and not (case.zero == 3 and case.options.get("bf16"))
    ]
