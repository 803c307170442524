"""A tiny LLaVA-NeXT on disk: tokenizer, language model, vision tower, images, records; always alike.

python -m tests.integrations.llava_next.world <folder>
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from tests.integrations.llava.records import texts
from tests.integrations.llava_next.records import make_records

_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
# A size that NeXT accepts for its grid of crops; each crop becomes 4 x 4 rows without a label.
IMAGE_SIZE, _PATCH_SIZE = 224, 56
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# At initialisation every token's loss is about log V, whatever its task: then weights would hardly matter.
_HEAD_SCALE = 12.0


@dataclass(frozen=True)
class World:
    """Where each part of the tiny world lies."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "records.json"

    @property
    def mixture(self) -> Path:
        """The records in a file per task, without their "task", under sampling strategies."""
        return self.folder / "mixture.yaml"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def tower(self) -> Path:
        return self.folder / "clip"

    @property
    def model(self) -> Path:
        """The checkpoint; NeXT chooses its class by this name."""
        return self.folder / "qwen"


def make_world(folder: Path) -> World:
    from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM

    world = World(folder)
    records = make_records(world.images)
    world.data.write_text(json.dumps(records))
    _make_mixture(world, records)
    tokenizer = _make_tokenizer(texts(records))
    torch.manual_seed(0)
    sizes = {**_SIZES, "vocab_size": len(tokenizer), "num_key_value_heads": 2}
    model = LlavaQwenForCausalLM(LlavaQwenConfig(**sizes))
    with torch.no_grad():
        model.lm_head.weight.mul_(_HEAD_SCALE)
    model.save_pretrained(world.model)
    tokenizer.save_pretrained(world.model)
    _make_tower(world.tower)
    return world


def _make_mixture(world: World, records: list[dict[str, Any]]) -> None:
    strategies = {
        "vqa": "random:50%",
        "caption": "first:6",
        "story": "end:5",
        "video": "random:4",
        "chat": "all",
    }
    datasets = []
    for task, strategy in strategies.items():
        # One of them in lines, as NeXT reads them too.
        path = world.folder / f"{task}.json{'l' if task == 'chat' else ''}"
        own = [{k: v for k, v in each.items() if k != "task"} for each in records if each["task"] == task]
        path.write_text("\n".join(map(json.dumps, own)) if task == "chat" else json.dumps(own))
        datasets.append({"json_path": str(path), "sampling_strategy": strategy})
    world.mixture.write_text(yaml.safe_dump({"datasets": datasets}))


def _make_tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(lines, vocab_size=420, special_tokens=_SPECIAL, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        pad_token=_SPECIAL[0],
        eos_token=_SPECIAL[2],
        additional_special_tokens=_SPECIAL[1:],
    )


def _make_tower(folder: Path) -> None:
    torch.manual_seed(1)
    sizes = {**_SIZES, "hidden_size": 16, "intermediate_size": 32}
    config = CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=_PATCH_SIZE, **sizes)
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size).save_pretrained(folder)


if __name__ == "__main__":
    make_world(Path(sys.argv[1]))
