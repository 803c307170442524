"""The demo's model: a real LLaVA, a CLIP vision tower and a Llama, of 0.3 million parameters."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cotbal._draws import own_draws
from cotbal.demo.batches import PATCH
from cotbal.demo.profiles import Profile
from cotbal.demo.tokenizer import END_ID, IMAGE_ID, PAD_ID, VOCABULARY
from cotbal.demo.world import SIZE

# The libraries' 0.02 suits widths of thousands; at 64-96 channels the signal would be too small to learn.
_INITIALIZER_RANGE = 0.05
_MAX_POSITIONS = 256


def build_model(profile: Profile, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model; the same profile and seed give the same parameters."""
    vision = CLIPVisionConfig(
        hidden_size=profile.vision_hidden,
        intermediate_size=2 * profile.vision_hidden,
        num_hidden_layers=profile.layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        initializer_range=_INITIALIZER_RANGE,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=profile.hidden,
        intermediate_size=2 * profile.hidden,
        num_hidden_layers=profile.layers,
        num_attention_heads=4,
        max_position_embeddings=_MAX_POSITIONS,
        initializer_range=_INITIALIZER_RANGE,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=END_ID,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        initializer_range=_INITIALIZER_RANGE,
    )
    # The libraries draw from the global generator.
    with own_draws(seed):
        return LlavaForConditionalGeneration(config)


def save_model(model: LlavaForConditionalGeneration, path: Path) -> None:
    """Writes all parameters as safetensors, in one step: the file is whole or absent."""
    partial = path.with_name(path.name + ".part")
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, partial)
    partial.replace(path)


def load_model(profile: Profile, path: Path) -> LlavaForConditionalGeneration:
    """The model with the parameters of a file of `save_model`.

    Raises:
        RuntimeError: names or shapes differ, as they do between major versions of transformers.
    """
    model = build_model(profile, seed=0)
    model.load_state_dict(load_file(path), strict=True)
    return model
