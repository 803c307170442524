"""Families whose processors write pictures in other ways; Qwen-VL, InternVL and SmolVLM need torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.finetune.collator import DialogueCollator
from cotbal.integrations.huggingface.finetune.records import STAND_IN
from tests.integrations.huggingface.chat_world import SIZES, World
from tests.integrations.huggingface.finetune.world import batch_of, record, run, trained, words, write

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{{ '(picture)' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<|im_start|>", "<|im_end|>", *special]
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(["what is the number here"] * 4, vocab_size=320, special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        **({"extra_special_tokens": named} if named else {}),
    )
    if not named:
        tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    return tokenizer


def _text(kind: Any, tokenizer: Any, **more: Any) -> Any:
    return kind(vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=0, **SIZES, **more)


def _idefics3() -> tuple[Any, Any]:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(
        ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *places]
    )
    pictures = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    config = transformers.Idefics3Config(
        vision_config=transformers.Idefics3VisionConfig(image_size=32, patch_size=8, **SIZES),
        text_config=_text(transformers.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    template = _CHATML.replace("(picture)", "<image>")
    made = transformers.Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    return made, transformers.Idefics3ForConditionalGeneration(config)


def _gemma3() -> tuple[Any, Any]:
    named = {"boi_token": "<start>", "eoi_token": "<end>", "image_token": "<soft>"}
    tokenizer = _tokenizer(list(named.values()), **named)
    config = transformers.Gemma3Config(
        text_config=_text(transformers.Gemma3TextConfig, tokenizer, head_dim=8),
        vision_config=transformers.SiglipVisionConfig(image_size=28, patch_size=14, **SIZES),
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<soft>"),
    )
    pictures = transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    template = _CHATML.replace("(picture)", "<start>")
    made = transformers.Gemma3Processor(pictures, tokenizer, image_seq_length=4, chat_template=template)
    return made, transformers.Gemma3ForConditionalGeneration(config)


def _llava_next() -> tuple[Any, Any]:
    tokenizer, pinpoints = _tokenizer(["<image>"]), [[28, 56], [56, 28], [56, 56]]
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    config = transformers.LlavaNextConfig(
        text_config=_text(transformers.Qwen2Config, tokenizer),
        vision_config=transformers.CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=32, **SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    made = transformers.LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHATML.replace("(picture)", "<image>"),
    )
    return made, transformers.LlavaNextForConditionalGeneration(config)


def _mllama() -> tuple[Any, Any]:
    tokenizer = _tokenizer(["<|image|>", "<|python_tag|>"])
    tokenizer.bos_token = "<pad>"
    pictures = transformers.MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=2)
    kinds = transformers.models.mllama
    vision = kinds.MllamaVisionConfig(
        attention_heads=4,
        hidden_size=32,
        image_size=28,
        intermediate_layers_indices=[0],
        intermediate_size=48,
        max_num_tiles=2,
        num_global_layers=1,
        num_hidden_layers=1,
        patch_size=14,
        supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        vision_output_dim=64,
    )
    config = transformers.MllamaConfig(
        text_config=_text(kinds.MllamaTextConfig, tokenizer, cross_attention_layers=[1]),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    template = _CHATML.replace("(picture)", "<|image|>")
    made = transformers.MllamaProcessor(pictures, tokenizer, chat_template=template)
    return made, transformers.MllamaForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore")
def test_a_family_that_takes_no_mixed_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its attention to pictures is a mask over all rows or none."""
    for part in _mllama():
        part.save_pretrained(tmp_path / "model")
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    pictured, plain = record(0, ("what is it", "one"), image="0.png"), record(1, ("what", "it"))
    for chosen, code in (([pictured, plain], 2), ([pictured], 0), ([plain], 0)):
        given = write(tmp_path, chosen)
        asked = words(World(tmp_path, tmp_path, tmp_path), tmp_path / "model", tmp_path / "out")
        assert run([*given, *asked, "--max_steps", "1", "--save_strategy", "no"]) == code
        said = capsys.readouterr().err
        assert ("as mllama takes no batch of both, got 1 of 2 with one" in said) == (code == 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [_idefics3, _gemma3, _llava_next], ids=lambda family: family.__name__)
def test_a_mixed_batch_is_its_records_one_by_one(
    family: Callable[[], tuple[Any, Any]], tmp_path: Path
) -> None:
    """The loss of pictures of several sizes, and of none, padded beside one another."""
    torch.manual_seed(0)
    processor, model = family()
    model.double().eval()
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 255, (30 + 20 * n, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    records = [
        record(0, ("what is it", "number one"), ("and here", "two"), image="2.png"),
        record(1, ("what", "the number is the number")),
        record(2, ("is it here", "it is"), image="0.png"),
        record(3, ("which number", "one"), image="1.png"),
        record(4, ("<image>what", "one"), ("<image>is it", "one"), ("what", "so"), ("it<image>", "one")),
    ]
    records[-1]["image"] = ["0.png", "2.png", "1.png"]
    collator = DialogueCollator(ChatTemplate(processor), tmp_path, ["<|im_end|>"])

    def loss_sum(*chosen: dict[str, Any]) -> torch.Tensor:
        batch = batch_of(collator, tmp_path, *chosen)
        given = {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
        with torch.no_grad():
            return model(**given).loss * (batch["labels"] >= 0).sum()

    batch = batch_of(collator, tmp_path, *records)
    assert trained(collator, batch)[0] == "number one<|im_end|>two<|im_end|>"
    assert trained(collator, batch)[4] == "one<|im_end|>one<|im_end|>so<|im_end|>one<|im_end|>"
    one_by_one = sum(loss_sum(each) for each in records)
    stand_in = collator([{"item": STAND_IN}])
    assert (stand_in["labels"] == -100).all()
    assert stand_in["pixel_values"].numel() > 0
    # The models' own loss is in float32.
    torch.testing.assert_close(loss_sum(*records), one_by_one, rtol=1e-6, atol=0)
