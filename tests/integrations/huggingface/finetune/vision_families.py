"""More tiny models of chat families, most of whose processors need torchvision."""

from collections.abc import Callable
from typing import Any

import transformers

from tests.integrations.huggingface.chat_world import SIZES
from tests.integrations.huggingface.finetune.families import (
    TILES,
    Made,
    aya_vision,
    ids_of,
    make_tokenizer,
    mistral3,
    ovis2,
    text_config,
    with_picture,
)

_TEXT = {"num_key_value_heads": 2, **SIZES}
_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, "mrope_interleaved": True}
# Of Qwen3.5, a layer of which has a state in place of keys.
_HYBRID = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}


def _qwen(
    name: str, processor: str, videos: str, patch: int, text: dict[str, Any], vision: dict[str, Any]
) -> Callable[[], Made]:
    def build() -> Made:
        tokenizer = make_tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
        area = (2 * patch) ** 2
        pictures = transformers.Qwen2VLImageProcessor(
            patch_size=patch, merge_size=2, size={"shortest_edge": area, "longest_edge": 6 * area}
        )
        made = getattr(transformers, processor)(
            pictures,
            tokenizer,
            getattr(transformers, videos)(patch_size=patch),
            chat_template=with_picture("<|vision_start|><|image_pad|><|vision_end|>"),
        )
        tower = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2, **vision}
        config = getattr(transformers, f"{name}Config")(
            text_config={
                "vocab_size": len(tokenizer),
                "head_dim": 8,
                "rope_parameters": _ROPE,
                "bos_token_id": None,
                "eos_token_id": 2,
                **_TEXT,
                **text,
            },
            vision_config={"temporal_patch_size": 2, **tower},
            **ids_of(
                tokenizer,
                image_token_id="<|image_pad|>",
                video_token_id="<|video_pad|>",
                vision_start_token_id="<|vision_start|>",
                vision_end_token_id="<|vision_end|>",
            ),
        )
        # The grouped product of experts has no float64.
        config.text_config._experts_implementation = "eager"
        return made, getattr(transformers, f"{name}ForConditionalGeneration")(config)

    return build


def _qwen3(name: str, text: dict[str, Any], vision: dict[str, Any]) -> Callable[[], Made]:
    tower = {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 24, "num_position_embeddings": 16}
    return _qwen(name, "Qwen3VLProcessor", "Qwen3VLVideoProcessor", 16, text, {**tower, **vision})


def _internvl() -> Made:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(list(named.values()), **named)
    made = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(**TILES),
        tokenizer,
        transformers.InternVLVideoProcessor(size=TILES["size"]),
        image_seq_length=1,
        chat_template=with_picture("<IMG_CONTEXT>"),
    )
    config = transformers.InternVLConfig(
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        vision_config=transformers.InternVLVisionConfig(image_size=[28, 28], patch_size=[14, 14], **SIZES),
        image_seq_length=1,
        **ids_of(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    return made, transformers.InternVLForConditionalGeneration(config)


def _smolvlm() -> Made:
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = make_tokenizer([*named.values(), *places], **named)
    pictures = transformers.SmolVLMImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    made = transformers.SmolVLMProcessor(
        pictures,
        tokenizer,
        transformers.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=with_picture("<image>"),
    )
    config = transformers.SmolVLMConfig(
        vision_config=transformers.SmolVLMVisionConfig(image_size=32, patch_size=8, **SIZES),
        text_config=text_config(transformers.LlamaConfig, tokenizer),
        scale_factor=2,
        pad_token_id=0,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    return made, transformers.SmolVLMForConditionalGeneration(config)


def _llava_onevision() -> Made:
    tokenizer, pinpoints = make_tokenizer(["<image>", "<video>"]), [[28, 56], [56, 28], [56, 56]]
    made = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=TILES["size"], image_grid_pinpoints=pinpoints),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=TILES["size"]),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=with_picture("<image>"),
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=text_config(transformers.Qwen2Config, tokenizer),
        vision_config=transformers.SiglipVisionConfig(
            image_size=28, patch_size=14, vision_use_head=False, **SIZES
        ),
        image_grid_pinpoints=pinpoints,
        **ids_of(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    )
    return made, transformers.LlavaOnevisionForConditionalGeneration(config)


def _gemma4() -> Made:
    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    tokenizer = make_tokenizer([*named.values(), "<|video|>"], **named)
    made = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        image_seq_length=4,
        chat_template=with_picture("<|image|>"),
    )
    config = transformers.Gemma4Config(
        text_config=text_config(
            transformers.Gemma4TextConfig,
            tokenizer,
            vocab_size_per_layer_input=len(tokenizer),
            head_dim=8,
            global_head_dim=8,
            hidden_size_per_layer_input=8,
            layer_types=["sliding_attention", "full_attention"],
            use_bidirectional_attention="vision",
        ),
        vision_config=transformers.Gemma4VisionConfig(
            patch_size=4,
            pooling_kernel_size=2,
            head_dim=8,
            position_embedding_size=128,
            num_key_value_heads=4,
            **SIZES,
        ),
        **ids_of(
            tokenizer, image_token_id="<|image|>", video_token_id="<|video|>", audio_token_id="<|audio|>"
        ),
    )
    return made, transformers.Gemma4ForConditionalGeneration(config)


def _glm4v() -> Made:
    tokens = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    tokenizer, area = make_tokenizer(list(tokens.values())), 2 * 28**2
    pictures = transformers.Glm4vImageProcessor(
        patch_size=14, merge_size=2, size={"shortest_edge": area, "longest_edge": 6 * area}
    )
    made = transformers.Glm4vProcessor(
        pictures,
        tokenizer,
        transformers.Glm4vVideoProcessor(),
        chat_template=with_picture("<|begin_of_image|><|image|><|end_of_image|>"),
    )
    rope = {**_ROPE, "partial_rotary_factor": 1.0}
    sizes = {"vocab_size": len(tokenizer), "head_dim": 8, "pad_token_id": 0}
    config = transformers.Glm4vConfig(
        text_config={**sizes, "rope_parameters": rope, **_TEXT},
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "patch_size": 14,
            "image_size": 56,
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
        },
        **ids_of(tokenizer, **tokens),
    )
    return made, transformers.Glm4vForConditionalGeneration(config)


def _lfm2_vl() -> Made:
    places = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = make_tokenizer(["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *places])
    pictures = transformers.Lfm2VlImageProcessor(
        max_tiles=4, min_image_tokens=1, max_image_tokens=4, encoder_patch_size=8, tile_size=32
    )
    made = transformers.Lfm2VlProcessor(pictures, tokenizer, chat_template=with_picture("<image>"))
    config = transformers.Lfm2VlConfig(
        text_config=text_config(transformers.Lfm2Config, tokenizer, layer_types=["conv", "full_attention"]),
        vision_config=transformers.Siglip2VisionConfig(
            patch_size=8, num_patches=16, vision_use_head=False, **SIZES
        ),
        projector_hidden_size=16,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    return made, transformers.Lfm2VlForConditionalGeneration(config)


def _molmo2() -> Made:
    tokens = {
        "image_start_token_id": "<im_start>",
        "low_res_image_start_token_id": "<low_res_im_start>",
        "image_end_token_id": "<im_end>",
        "image_patch_id": "<im_patch>",
        "frame_start_token_id": "<frame_start>",
        "frame_end_token_id": "<frame_end>",
    }
    tokenizer = make_tokenizer([*tokens.values(), "<|image|>", "<|video|>", "<im_col>", "<im_low>"])
    # Its processor begins every text by it.
    tokenizer.bos_token = "<im_low>"
    pictures = transformers.Molmo2ImageProcessor(
        size=TILES["size"], max_crops=2, overlap_margins=[0, 0], patch_size=7, pooling_size=[2, 2]
    )
    made = transformers.Molmo2Processor(
        pictures, transformers.Molmo2VideoProcessor(), tokenizer, chat_template=with_picture("<|image|>")
    )
    heads = {"head_dim": 8, "num_key_value_heads": 4}
    adapter = {"vision_feature_layer": [-1], "text_hidden_size": 32, "num_attention_heads": 4}
    config = transformers.Molmo2Config(
        text_config={"vocab_size": len(tokenizer), "additional_vocab_size": 2, "head_dim": 8, **_TEXT},
        vision_config={
            "image_size": [28, 28],
            "patch_size": 7,
            "num_position_embeddings": 16,
            **heads,
            **SIZES,
        },
        adapter_config={"hidden_size": 32, "intermediate_size": 16, **adapter, **heads},
        **ids_of(tokenizer, **tokens),
    )
    return made, transformers.Molmo2ForConditionalGeneration(config)


def _minicpm() -> Made:
    named = {
        "image_token": "<unk_img>",
        "video_token": "<unk_vid>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer = make_tokenizer(list(named.values()), **named)
    made = transformers.MiniCPMV4_6Processor(
        transformers.MiniCPMV4_6ImageProcessor(max_slice_nums=3, scale_resolution=32, patch_size=4),
        transformers.MiniCPMV4_6VideoProcessor(),
        tokenizer,
        chat_template=with_picture("<unk_img>"),
    )
    text = {"model_type": "qwen3_5_text", "vocab_size": len(tokenizer), "head_dim": 8, "eos_token_id": 2}
    config = transformers.MiniCPMV4_6Config(
        text_config={"rope_parameters": _ROPE, **text, **_HYBRID, **_TEXT},
        vision_config={"image_size": 32, "patch_size": 4, "insert_layer_id": 0, **SIZES},
        insert_layer_id=0,
        image_size=32,
        **ids_of(tokenizer, image_token_id="<unk_img>", video_token_id="<unk_vid>"),
    )
    return made, transformers.MiniCPMV4_6ForConditionalGeneration(config)


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# By the class of the model, which an older transformers may lack.
VISION_FAMILIES: dict[str, Callable[[], Made]] = {
    "Qwen2VLForConditionalGeneration": _qwen(
        "Qwen2VL",
        "Qwen2VLProcessor",
        "Qwen2VLVideoProcessor",
        14,
        {},
        {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    ),
    "Qwen2_5_VLForConditionalGeneration": _qwen(
        "Qwen2_5_VL",
        "Qwen2_5_VLProcessor",
        "Qwen2VLVideoProcessor",
        14,
        {},
        {
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 24,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    ),
    "Qwen3VLForConditionalGeneration": _qwen3("Qwen3VL", {}, {"deepstack_visual_indexes": [0]}),
    "Qwen3VLMoeForConditionalGeneration": _qwen3("Qwen3VLMoe", _EXPERTS, {"deepstack_visual_indexes": [0]}),
    "Qwen3_5ForConditionalGeneration": _qwen3("Qwen3_5", _HYBRID, {}),
    "InternVLForConditionalGeneration": _internvl,
    "SmolVLMForConditionalGeneration": _smolvlm,
    "LlavaOnevisionForConditionalGeneration": _llava_onevision,
    "Gemma4ForConditionalGeneration": _gemma4,
    "Glm4vForConditionalGeneration": _glm4v,
    "Mistral3ForConditionalGeneration": mistral3,
    "Lfm2VlForConditionalGeneration": _lfm2_vl,
    "AyaVisionForConditionalGeneration": aya_vision,
    "Ovis2ForConditionalGeneration": ovis2,
    "Molmo2ForConditionalGeneration": _molmo2,
    "MiniCPMV4_6ForConditionalGeneration": _minicpm,
}
