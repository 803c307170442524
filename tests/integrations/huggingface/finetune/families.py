"""Tiny models of chat families, each with a processor of small pictures."""

from typing import Any

import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from tests.integrations.huggingface.chat_world import SIZES

# Processor and model.
Made = tuple[Any, Any]
END = "<|im_end|>"
TILES = {"size": {"height": 28, "width": 28}, "crop_to_patches": True, "max_patches": 4}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{{ '(picture)' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
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


def text_config(kind: Any, tokenizer: Any, **more: Any) -> Any:
    return kind(vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=0, **SIZES, **more)


def with_picture(picture: str) -> str:
    return CHATML.replace("(picture)", picture)


def ids_of(tokenizer: Any, **tokens: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def idefics3() -> Made:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = make_tokenizer(
        ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *places]
    )
    pictures = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    config = transformers.Idefics3Config(
        vision_config=transformers.Idefics3VisionConfig(image_size=32, patch_size=8, **SIZES),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    template = CHATML.replace("(picture)", "<image>")
    made = transformers.Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    return made, transformers.Idefics3ForConditionalGeneration(config)


def gemma3() -> Made:
    named = {"boi_token": "<start>", "eoi_token": "<end>", "image_token": "<soft>"}
    tokenizer = make_tokenizer(list(named.values()), **named)
    config = transformers.Gemma3Config(
        text_config=text_config(transformers.Gemma3TextConfig, tokenizer, head_dim=8),
        vision_config=transformers.SiglipVisionConfig(image_size=28, patch_size=14, **SIZES),
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<soft>"),
    )
    pictures = transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    template = CHATML.replace("(picture)", "<start>")
    made = transformers.Gemma3Processor(pictures, tokenizer, image_seq_length=4, chat_template=template)
    return made, transformers.Gemma3ForConditionalGeneration(config)


def llava_next() -> Made:
    tokenizer, pinpoints = make_tokenizer(["<image>"]), [[28, 56], [56, 28], [56, 56]]
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    config = transformers.LlavaNextConfig(
        text_config=text_config(transformers.Qwen2Config, tokenizer),
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
        chat_template=CHATML.replace("(picture)", "<image>"),
    )
    return made, transformers.LlavaNextForConditionalGeneration(config)


def mllama() -> Made:
    tokenizer = make_tokenizer(["<|image|>", "<|python_tag|>"])
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
        text_config=text_config(kinds.MllamaTextConfig, tokenizer, cross_attention_layers=[1]),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    template = CHATML.replace("(picture)", "<|image|>")
    made = transformers.MllamaProcessor(pictures, tokenizer, chat_template=template)
    return made, transformers.MllamaForConditionalGeneration(config)


def mistral3() -> Made:
    tokenizer = make_tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    pictures = transformers.PixtralImageProcessor(
        patch_size={"height": 14, "width": 14}, size={"longest_edge": 84}
    )
    made = transformers.PixtralProcessor(
        pictures, tokenizer, patch_size=14, spatial_merge_size=2, chat_template=with_picture("[IMG]")
    )
    config = transformers.Mistral3Config(
        text_config=text_config(transformers.MistralConfig, tokenizer, head_dim=8),
        vision_config=transformers.PixtralVisionConfig(image_size=84, patch_size=14, head_dim=8, **SIZES),
        spatial_merge_size=2,
        **ids_of(tokenizer, image_token_index="[IMG]"),
    )
    return made, transformers.Mistral3ForConditionalGeneration(config)


def aya_vision() -> Made:
    marks = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL"]
    tokenizer = make_tokenizer(["<image>", "TILE", *marks, *(f"TILE_{n}" for n in range(1, 7))])
    made = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessor(**TILES),
        tokenizer,
        patch_size=7,
        img_size=28,
        downsample_factor=2,
        chat_template=with_picture("<image>"),
    )
    config = transformers.AyaVisionConfig(
        text_config=text_config(transformers.Cohere2Config, tokenizer),
        vision_config=transformers.SiglipVisionConfig(
            image_size=28, patch_size=7, vision_use_head=False, **SIZES
        ),
        downsample_factor=2,
        **ids_of(tokenizer, image_token_index="<|IMG_PATCH|>"),
    )
    return made, transformers.AyaVisionForConditionalGeneration(config)


def ovis2() -> Made:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = make_tokenizer(["<image>", "<IMG_ATOM>", *marks])
    made = transformers.Ovis2Processor(
        transformers.Ovis2ImageProcessor(**TILES),
        tokenizer,
        image_seq_length=4,
        chat_template=with_picture("<image>"),
    )
    config = transformers.Ovis2Config(
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        vision_config=transformers.Ovis2VisionConfig(image_size=28, patch_size=14, vocab_size=16, **SIZES),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks),
        vocab_size=len(tokenizer),
        hidden_size=SIZES["hidden_size"],
        **ids_of(tokenizer, image_token_id="<IMG_ATOM>"),
    )
    return made, transformers.Ovis2ForConditionalGeneration(config)
