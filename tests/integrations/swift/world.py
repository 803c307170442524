"""A tiny world for ms-swift on disk: two text models, a LLaVA, pictures and records; always alike.

python -m tests.integrations.swift.world <folder>
"""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

WEIGHTS = {"vqa": 0.4, "caption": 1.9, "chat": 1.0}
_QWEN_VL = ["<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"]
_SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>"]
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_IMAGE, _PATCH = 28, 14
# At initialisation every token's loss is about log V, whatever its task: then weights would hardly matter.
_HEAD_SCALE = 12.0
_WORDS = [
    "a",
    "the",
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "tree",
    "house",
    "sits",
    "runs",
    "near",
    "under",
    "two",
]


@dataclass(frozen=True)
class World:
    """Where each part lies."""

    folder: Path

    @property
    def text(self) -> Path:
        return self.folder / "qwen"

    @property
    def experts(self) -> Path:
        return self.folder / "qwen3_moe"

    @property
    def vision(self) -> Path:
        return self.folder / "llava"

    @property
    def qwen_vl(self) -> Path:
        return self.folder / "qwen2_5_vl"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.json"

    def data(self, task: str, kind: str = "text") -> Path:
        """Its records: `kind` is "text", "experts" (the same), "vision" or "qwen_vl" (the same)."""
        return self.folder / f"{task}_{'vision' if kind in ('vision', 'qwen_vl') else 'text'}.jsonl"


def make_world(folder: Path) -> World:
    world = World(folder)
    (folder / "images").mkdir(parents=True)
    world.weights.write_text(json.dumps(WEIGHTS))
    drawn = random.Random(0)
    records = [_record(drawn, task, index) for task in WEIGHTS for index in range(8)]
    for task in WEIGHTS:
        own = [record for record in records if record["channel"] == task]
        _write(world.data(task), own)
        pictured = [record if task == "chat" else _with_picture(folder, record, drawn) for record in own]
        _write(world.data(task, "vision"), pictured)
    tokenizer = _tokenizer([message["content"] for record in records for message in record["messages"]])
    _text_model(world.text, tokenizer)
    _experts_model(world.experts, tokenizer)
    _vision_model(world.vision, tokenizer)
    _qwen_vl_model(world.qwen_vl, tokenizer)
    return world


def _record(drawn: random.Random, task: str, index: int) -> dict[str, Any]:
    """Answers of one word, of a sentence and of any length; each is another one, which tells the record."""
    length = {"vqa": 1, "caption": 7, "chat": 1 + 3 * (index % 3)}[task]
    answer = " ".join(drawn.choice(_WORDS) for _ in range(length))
    question = " ".join(drawn.choice(_WORDS) for _ in range(drawn.randint(2, 6)))
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": f"{answer} {task} {index}"},
    ]
    return {"messages": messages, "channel": task}


def _with_picture(folder: Path, record: dict[str, Any], drawn: random.Random) -> dict[str, Any]:
    path = folder / "images" / f"{record['messages'][1]['content'].replace(' ', '_')}.png"
    size = (drawn.randint(20, 40), drawn.randint(20, 40))
    Image.frombytes("RGB", size, drawn.randbytes(3 * size[0] * size[1])).save(path)
    user, answer = record["messages"]
    asked = user | {"content": f"<image>{user['content']}"}
    return record | {"messages": [asked, answer], "images": [str(path)]}


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(lines, vocab_size=360, special_tokens=_SPECIAL, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<|im_end|>"},
        additional_special_tokens=_SPECIAL[2:],
        model_max_length=256,
    )


def _text_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **_SIZES)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(_HEAD_SCALE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _experts_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(2)
    routing = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.2, **_SIZES, **routing
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _vision_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(1)
    tower = CLIPVisionConfig(image_size=_IMAGE, patch_size=_PATCH, **_SIZES)
    config = LlavaConfig(
        vision_config=tower,
        text_config=LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **_SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=(_IMAGE // _PATCH) ** 2,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(_HEAD_SCALE)
    model.save_pretrained(folder)
    size = {"height": _IMAGE, "width": _IMAGE}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": _IMAGE}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    ).save_pretrained(folder)


def _qwen_vl_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(3)
    tokenizer.add_special_tokens({"additional_special_tokens": [*_SPECIAL[2:], *_QWEN_VL]})
    tower = {"depth": 2, "num_heads": 2, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    start, image, video, end = tokenizer.convert_tokens_to_ids(_QWEN_VL)
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "rope_parameters": rope, **_SIZES}
    config = Qwen2_5_VLConfig(
        text_config={"bos_token_id": 1, "eos_token_id": 4, **text},
        vision_config={**tower, "window_size": 56, "fullatt_block_indexes": [1]},
        **{"image_token_id": image, "video_token_id": video},
        **{"vision_start_token_id": start, "vision_end_token_id": end},
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(_HEAD_SCALE)
    model.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(min_pixels=(2 * _PATCH) ** 2, max_pixels=4 * (2 * _PATCH) ** 2)
    Qwen2_5_VLProcessor(pictures, tokenizer, Qwen2VLVideoProcessor()).save_pretrained(folder)


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
