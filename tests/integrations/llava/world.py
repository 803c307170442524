"""A tiny LLaVA on disk: tokenizer, language models, vision tower, images, records; always the same."""

import json
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from llava.conversation import conv_templates
from llava.model import LlavaConfig, LlavaLlamaForCausalLM, LlavaMistralConfig, LlavaMistralForCausalLM
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaTokenizer,
    PreTrainedModel,
)

from tests.integrations.llava.records import make_records, texts

_VOCABULARY = 512
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
# Each picture becomes (56 / 14)^2 = 16 rows without a label, in place of one token.
_IMAGE_SIZE, _PATCH_SIZE = 56, 14
# At initialisation every token's loss is about log V, whatever its task: then weights would hardly matter.
HEAD_SCALE = 25.0
# With this one the tasks' mean losses differ by 31 %.
_SEED = 3


@dataclass(frozen=True)
class World:
    """Where each part of the tiny world lies."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "records.json"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def tower(self) -> Path:
        return self.folder / "clip"

    def model(self, name: str) -> Path:
        """The checkpoint "scaled" (losses differ between tasks), "near_initialisation" or "mistral"."""
        return self.folder / name


def make_world(folder: Path) -> World:
    world = World(folder)
    folder.mkdir(parents=True)
    records = make_records(world.images)
    world.data.write_text(json.dumps(records))
    tokenizer = make_tokenizer(folder, texts(records))
    for name, scale in (("near_initialisation", 2.0), ("scaled", HEAD_SCALE)):
        _save(_llama(_VOCABULARY), scale, world.model(name), tokenizer)
    _save(_mistral(_VOCABULARY), HEAD_SCALE, world.model("mistral"), tokenizer)
    _make_tower(world.tower)
    return world


def make_wide_model(world: World, vocabulary: int) -> Path:
    """A checkpoint with the head of a real model, for what the loss costs."""
    folder = world.model(f"wide_{vocabulary}")
    tokenizer = LlamaTokenizer.from_pretrained(world.model("scaled"))
    _save(_llama(vocabulary), HEAD_SCALE, folder, tokenizer)
    return folder


def make_tokenizer(
    folder: Path, lines: list[str], vocabulary: int = _VOCABULARY, **rules: object
) -> LlamaTokenizer:
    """A tokenizer of these lines and LLaVA's prompt, by rules of SentencePiece beside its own."""
    vicuna = conv_templates["vicuna_v1"]
    text = folder / "text.txt"
    text.write_text("\n".join([vicuna.system, *(f"{role}: " for role in vicuna.roles), *lines]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "pieces"),
        model_type="bpe",
        vocab_size=vocabulary,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
        **rules,
    )
    return LlamaTokenizer(str(folder / "pieces.model"), legacy=True)


def _llama(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(_SEED)
    return LlavaLlamaForCausalLM(LlavaConfig(vocab_size=vocabulary, max_position_embeddings=512, **_SIZES))


def _mistral(vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(_SEED)
    config = LlavaMistralConfig(vocab_size=vocabulary, num_key_value_heads=2, **_SIZES)
    return LlavaMistralForCausalLM(config)


def _save(model: PreTrainedModel, scale: float, folder: Path, tokenizer: LlamaTokenizer) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tower(folder: Path) -> None:
    torch.manual_seed(1)
    sizes = {**_SIZES, "hidden_size": 16, "intermediate_size": 32}
    config = CLIPVisionConfig(image_size=_IMAGE_SIZE, patch_size=_PATCH_SIZE, **sizes)
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    CLIPImageProcessor(size={"shortest_edge": _IMAGE_SIZE}, crop_size=size).save_pretrained(folder)
