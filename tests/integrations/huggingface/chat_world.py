"""A tiny chat model of text alone and a tiny LLaVA, with tokenizer and processor, and their pictures."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE, PATCH = 28, 14
SPECIAL = ["<pad>", "<s>", "</s>", "<|end|>", "<image>"]
TEXT = (
    "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{{ tone | default('') }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}<s>{{ m.role }}:{% for part in m.content %}"
    "{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
WORDS = ["what", "which", "colour", "number", "is", "it", "that", "the", "shown", "here", "and", "there"]


class World(NamedTuple):
    """A folder of a text model and one of a LLaVA, questions, and their pictures."""

    text: Path
    vision: Path
    images: Path


def make_world(folder: Path) -> World:
    """Writes it into a folder."""
    made = World(folder / "text", folder / "vision", folder / "images")
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator([" ".join(WORDS)] * 4, vocab_size=320, special_tokens=SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = TEXT
    tokenizer.save_pretrained(made.text)
    size = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 96}
    config = Qwen2Config(**size, **SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    _save(Qwen2ForCausalLM, config, made.text)
    tokenizer.chat_template = None
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PARTS,
    ).save_pretrained(made.vision)
    vision = CLIPVisionConfig(image_size=IMAGE, patch_size=PATCH, projection_dim=32, **SIZES)
    config = LlavaConfig(
        vision_config=vision, text_config=config, image_token_index=tokenizer.convert_tokens_to_ids("<image>")
    )
    _save(LlavaForConditionalGeneration, config, made.vision)
    made.images.mkdir()
    draw = np.random.default_rng(0)
    for n in range(0, 12, 2):
        pixels = draw.integers(0, 255, (30, 40 + n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made.images / f"{n}.png")
    return made


def _save(kind: Any, config: Any, folder: Path) -> None:
    """With what a checkpoint may say of its generation, and an end that is drawn now and then."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(12)
        # At initialisation a prompt hardly changes what follows its last token.
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name:
                weight.mul_(8)
    sampled = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.7}
    for name, value in sampled.items():
        setattr(model.generation_config, name, value)
    model.generation_config.eos_token_id = list(range(40, 80))
    model.save_pretrained(folder)


def beginning_processor(world: World, begins: bool) -> LlavaProcessor:
    """One whose tokenizer begins each text; the chat template does so too, or does not."""
    processor = LlavaProcessor.from_pretrained(world.vision)
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    processor.chat_template = PARTS if begins else PARTS.replace("<s>", "")
    return processor
