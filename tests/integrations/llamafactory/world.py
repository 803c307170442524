"""Tiny models and datasets on disk, as LLaMA-Factory reads them: text, and LLaVA and Qwen2-VL with images.

python -m tests.integrations.llamafactory.world <folder>
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

TASKS = ("vqa", "caption", "chat")
# The models with pictures, by LLaMA-Factory's template of the name.
PICTURED = ("llava", "qwen2_vl")
_QWEN_VL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_SPECIAL = ["<s>", "</s>", "<pad>", "<image>", "<|im_start|>", "<|im_end|>", *_QWEN_VL]
_IMAGE_SIZE, _PATCH_SIZE = 28, 14
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
# At initialisation every token's loss is about log V, whatever its task: then weights would hardly matter.
_HEAD_SCALE = 12.0
_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
# What Qwen2.5's writes where there are no tools.
_QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + _SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# A processor's, whose messages are in parts.
_LLAVA = (
    _VICUNA + "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else ' ' }}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{{ '</s>' if m.role == 'assistant' }}"
    "{% endfor %}{{ ' ASSISTANT:' if add_generation_prompt }}"
)
_WORDS = {"vqa": (1, 3), "caption": (8, 25), "chat": (3, 12)}


def make_world(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    info, lines = {}, []
    for kind, has_image in (("", False), ("_img", True)):
        for task in TASKS:
            name = task + kind
            records = [
                _record(task, has_image and task != "chat", draw, folder, index) for index in range(24)
            ]
            if name == "chat":
                # LLaMA-Factory drops it: two of the user's turns in a row.
                records[3]["messages"].insert(0, records[3]["messages"][0])
            (folder / f"{name}.json").write_text(json.dumps(records))
            info[name] = {
                "file_name": f"{name}.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages"} | ({"images": "images"} if has_image else {}),
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                },
            }
            lines += [turn["content"] for each in records for turn in each["messages"]]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tokenizer = _tokenizer(lines)
    _llama(tokenizer, folder / "llama")
    _mixtral(tokenizer, folder / "mixtral")
    tokenizer.chat_template = _QWEN
    _llama(tokenizer, folder / "qwen")
    tokenizer.chat_template = None
    _llava(tokenizer, folder / "llava")
    _qwen2_vl(tokenizer, folder / "qwen2_vl")


def _record(task: str, has_image: bool, draw: Any, folder: Path, index: int) -> dict[str, Any]:
    """A question that names its task, by which the tests know it again, and an answer of its length."""
    answer = " ".join(f"w{draw.integers(40)}" for _ in range(draw.integers(*_WORDS[task])))
    question = f"{'<image>' if has_image else ''}[{task}] q{index} w{draw.integers(40)}?"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    record: dict[str, Any] = {"messages": turns, "task": "a key of the user's own"}
    if has_image:
        path = folder / f"{task}{index}.png"
        Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
    record["images"] = [path.name] if has_image else []
    return record


def _tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
    )


def _text(tokenizer: PreTrainedTokenizerFast, kind: Any = LlamaConfig, **more: Any) -> Any:
    ids = {"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}
    return kind(vocab_size=len(tokenizer), num_key_value_heads=2, **_SIZES, **ids, **more)


def _llama(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    torch.manual_seed(0)
    _save(LlamaForCausalLM(_text(tokenizer)), folder)
    tokenizer.save_pretrained(folder)


def _mixtral(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    torch.manual_seed(0)
    _save(MixtralForCausalLM(_text(tokenizer, MixtralConfig, num_local_experts=4)), folder)
    tokenizer.save_pretrained(folder)


def _llava(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    torch.manual_seed(1)
    vision = CLIPVisionConfig(image_size=_IMAGE_SIZE, patch_size=_PATCH_SIZE, projection_dim=32, **_SIZES)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=_text(tokenizer), image_token_index=image)
    _save(LlavaForConditionalGeneration(config), folder)
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": _IMAGE_SIZE}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=_PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA,
    ).save_pretrained(folder)


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    torch.manual_seed(2)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "rope_parameters": rope, **_SIZES}
    tower = {"depth": 2, "num_heads": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    start, end, image, video = tokenizer.convert_tokens_to_ids(_QWEN_VL)
    config = Qwen2VLConfig(
        text_config={"pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1, **text},
        vision_config=tower,
        **{"image_token_id": image, "video_token_id": video},
        **{"vision_start_token_id": start, "vision_end_token_id": end},
    )
    _save(Qwen2VLForConditionalGeneration(config), folder)
    pictures = Qwen2VLImageProcessor(min_pixels=28**2, max_pixels=4 * 28**2)
    Qwen2VLProcessor(pictures, tokenizer, Qwen2VLVideoProcessor()).save_pretrained(folder)


def _save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(_HEAD_SCALE)
    model.save_pretrained(folder)


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
