"""A tiny random model and batch of each class that README lists, with an image where the class takes one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

Batch = dict[str, Tensor]

FROM_5 = int(transformers.__version__.partition(".")[0]) >= 5

_GRID = [[8, 8], [8, 16], [16, 8], [16, 16]]


@dataclass(frozen=True)
class Size:
    """The vocabulary and how many tokens of text follow the image."""

    vocab: int = 100
    text: int = 7

    @property
    def image(self) -> int:
        """The id of an image token: the last one of the vocabulary."""
        return self.vocab - 1

    def language(self, **more: Any) -> dict[str, Any]:
        """A language model of two layers, grouped-query attention and width 32."""
        return {
            "vocab_size": self.vocab,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "max_position_embeddings": 1024,
            **more,
        }

    def vision(self, **more: Any) -> dict[str, Any]:
        """A vision transformer that turns 8 x 8 pixels into 4 patches."""
        tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        return {**tower, "image_size": 8, "patch_size": 4, **more}

    def ids(self, image_tokens: int = 0) -> Tensor:
        """(2, 1 + image_tokens + text) token ids, the image's after the first."""
        ids = torch.randint(3, self.vocab - 5, (2, 1 + image_tokens + self.text))
        ids[:, 1 : 1 + image_tokens] = self.image
        return ids


def _text(name: str, **options: Any) -> Callable[[Size], tuple[nn.Module, Batch]]:
    def build(size: Size) -> tuple[nn.Module, Batch]:
        config = getattr(transformers, f"{name}Config")(**size.language(**options))
        return transformers.AutoModelForCausalLM.from_config(config), {"input_ids": size.ids()}

    return build


def _moe(name: str, **options: Any) -> Callable[[Size], tuple[nn.Module, Batch]]:
    def build(size: Size) -> tuple[nn.Module, Batch]:
        config = getattr(transformers, f"{name}Config")(**size.language(**options))
        # The grouped product of experts has no float64.
        config._experts_implementation = "eager"
        return transformers.AutoModelForCausalLM.from_config(config), {"input_ids": size.ids()}

    return build


def _llava(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**size.language()),
        vision_config=transformers.CLIPVisionConfig(**size.vision()),
        image_token_index=size.image,
        image_seq_length=4,
    )
    batch = {"input_ids": size.ids(4), "pixel_values": torch.randn(2, 3, 8, 8)}
    return transformers.LlavaForConditionalGeneration(config), batch


def _tiles(size: Size) -> Batch:
    """The whole image and one tile of it: 4 patches, 4 with 2 ends of rows."""
    pixels, sizes = torch.randn(2, 2, 3, 8, 8), torch.tensor([[8, 8], [8, 8]])
    return {"input_ids": size.ids(10), "pixel_values": pixels, "image_sizes": sizes}


def _llava_next(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.LlavaNextConfig(
        text_config=transformers.MistralConfig(**size.language()),
        vision_config=transformers.CLIPVisionConfig(**size.vision()),
        image_token_index=size.image,
        image_grid_pinpoints=_GRID,
    )
    return transformers.LlavaNextForConditionalGeneration(config), _tiles(size)


def _llava_onevision(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**size.language()),
        vision_config=transformers.SiglipVisionConfig(**size.vision()),
        image_token_index=size.image,
        video_token_index=size.image - 1,
        image_grid_pinpoints=_GRID,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), _tiles(size)


def _mistral3(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**size.language()),
        vision_config=transformers.PixtralVisionConfig(**size.vision(head_dim=8)),
        image_token_index=size.image,
        spatial_merge_size=1,
    )
    sizes = torch.tensor([[8, 8], [8, 8]])
    batch = {"input_ids": size.ids(4), "pixel_values": torch.randn(2, 3, 8, 8), "image_sizes": sizes}
    return transformers.Mistral3ForConditionalGeneration(config), batch


def _pali_gemma(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.PaliGemmaConfig(
        text_config=transformers.Gemma2Config(**size.language(final_logit_softcapping=5.0)),
        vision_config=transformers.SiglipVisionConfig(**size.vision(vision_use_head=False)),
        image_token_index=size.image,
        hidden_size=32,
        projection_dim=32,
    )
    ids = size.ids(4)
    pixels = torch.randn(2, 3, 8, 8)
    batch = {"input_ids": ids, "pixel_values": pixels, "token_type_ids": torch.ones_like(ids)}
    return transformers.PaliGemmaForConditionalGeneration(config), batch


def _qwen_vl(name: str, **vision: Any) -> Callable[[Size], tuple[nn.Module, Batch]]:
    rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    rope = {"rope_parameters" if FROM_5 else "rope_scaling": rope}
    tower = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}

    def build(size: Size) -> tuple[nn.Module, Batch]:
        last = size.image
        config = getattr(transformers, f"{name}Config")(
            text_config=size.language(**rope),
            vision_config={**tower, "in_channels": 3, **vision},
            image_token_id=last,
            video_token_id=last - 1,
            vision_start_token_id=last - 2,
            vision_end_token_id=last - 3,
            **({} if FROM_5 else {"vocab_size": size.vocab}),
        )
        ids = size.ids(4)
        ids[:, 0] = last - 2
        batch = {
            "input_ids": ids,
            "pixel_values": torch.randn(2 * 16, 3 * 2 * 4 * 4),
            "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
        }
        if FROM_5:
            batch["mm_token_type_ids"] = (ids == last).int()
        return getattr(transformers, f"{name}ForConditionalGeneration")(config), batch

    return build


def _internvl(size: Size) -> tuple[nn.Module, Batch]:
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**size.language()),
        vision_config=transformers.InternVLVisionConfig(**size.vision(image_size=[8, 8], patch_size=[4, 4])),
        image_token_id=size.image,
        image_seq_length=1,
    )
    batch = {"input_ids": size.ids(1), "pixel_values": torch.randn(2, 3, 8, 8)}
    return transformers.InternVLForConditionalGeneration(config), batch


def _idefics(name: str) -> Callable[[Size], tuple[nn.Module, Batch]]:
    def build(size: Size) -> tuple[nn.Module, Batch]:
        config = getattr(transformers, f"{name}Config")(
            text_config=transformers.LlamaConfig(**size.language()),
            vision_config=size.vision(),
            image_token_id=size.image,
            scale_factor=2,
        )
        batch = {"input_ids": size.ids(1), "pixel_values": torch.randn(2, 1, 3, 8, 8)}
        return getattr(transformers, f"{name}ForConditionalGeneration")(config), batch

    return build


def _gemma3(size: Size) -> tuple[nn.Module, Batch]:
    # A cap in the text configuration, which this class does not apply.
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**size.language(final_logit_softcapping=5.0)),
        vision_config=transformers.SiglipVisionConfig(**size.vision()),
        image_token_id=size.image,
        image_token_index=size.image,
        mm_tokens_per_image=4,
    )
    ids = size.ids(4)
    pixels = torch.randn(2, 3, 8, 8)
    batch = {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == size.image).int()}
    return transformers.Gemma3ForConditionalGeneration(config), batch


# Before transformers 5 the multimodal Gemma 3 computes its loss by itself, so that no level is possible.
NO_LOSS_FUNCTION = () if FROM_5 else ("Gemma3ForConditionalGeneration",)

CASES: dict[str, Callable[[Size], tuple[nn.Module, Batch]]] = {
    "LlamaForCausalLM": _text("Llama"),
    "MistralForCausalLM": _text("Mistral"),
    "Qwen2ForCausalLM": _text("Qwen2"),
    "Qwen3ForCausalLM": _text("Qwen3"),
    "Gemma2ForCausalLM": _text("Gemma2", final_logit_softcapping=5.0),
    "Gemma3ForCausalLM": _text("Gemma3Text", final_logit_softcapping=5.0),
    "GraniteForCausalLM": _text("Granite", logits_scaling=8.0),
    "CohereForCausalLM": _text("Cohere", logit_scale=0.25),
    "Cohere2ForCausalLM": _text("Cohere2", logit_scale=0.25),
    "PhiForCausalLM": _text("Phi"),
    "Phi3ForCausalLM": _text("Phi3"),
    "LlavaForConditionalGeneration": _llava,
    "LlavaNextForConditionalGeneration": _llava_next,
    "LlavaOnevisionForConditionalGeneration": _llava_onevision,
    "Qwen2VLForConditionalGeneration": _qwen_vl("Qwen2VL", embed_dim=16, hidden_size=32, mlp_ratio=2),
    "Qwen2_5_VLForConditionalGeneration": _qwen_vl(
        "Qwen2_5_VL",
        hidden_size=16,
        out_hidden_size=32,
        intermediate_size=24,
        window_size=8,
        fullatt_block_indexes=[1],
    ),
    "InternVLForConditionalGeneration": _internvl,
    "Idefics3ForConditionalGeneration": _idefics("Idefics3"),
    "SmolVLMForConditionalGeneration": _idefics("SmolVLM"),
    "Gemma3ForConditionalGeneration": _gemma3,
}

# Of transformers 5, on which alone they were run; the tests of the last five are in the full run.
if FROM_5:
    CASES |= {
        "MixtralForCausalLM": _moe("Mixtral", num_local_experts=4),
        "Qwen3VLForConditionalGeneration": _qwen_vl(
            "Qwen3VL",
            hidden_size=16,
            out_hidden_size=32,
            intermediate_size=24,
            num_position_embeddings=16,
            deepstack_visual_indexes=[0],
        ),
        "Qwen3MoeForCausalLM": _moe(
            "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        ),
        "GptOssForCausalLM": _moe("GptOss", num_local_experts=4, num_experts_per_tok=2),
        "Mistral3ForConditionalGeneration": _mistral3,
        "PaliGemmaForConditionalGeneration": _pali_gemma,
        "Glm4vForConditionalGeneration": _qwen_vl(
            "Glm4v", hidden_size=16, out_hidden_size=32, intermediate_size=24, image_size=16
        ),
    }
_LONG = [*CASES][-5:] if FROM_5 else []


def each(names: Iterable[str] = CASES) -> list[Any]:
    """The names as parameters of a test; the classes that were added last are tested in the full run."""
    return [pytest.param(name, marks=[pytest.mark.full] * (name in _LONG)) for name in names]


def build(name: str, size: Size | None = None, valid: float = 0.7) -> tuple[nn.Module, Batch]:
    """The class in training mode, and a batch with labels, of which about the share `valid` counts."""
    torch.manual_seed(0)
    size = size or Size()
    model, batch = CASES[name](size)
    assert type(model).__name__ == name
    with torch.no_grad():
        for parameter in model.parameters():
            # No class starts with parts at 0 that hide their gradients, and logits reach the softcap.
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = batch["input_ids"].clone()
    labels[(labels == size.image) | (torch.rand(labels.shape) > valid)] = -100
    # Also the first label, which is no target.
    labels[:, 0] = 5
    return model.train(), batch | {"labels": labels, "attention_mask": torch.ones_like(labels)}
