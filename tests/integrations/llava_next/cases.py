"""The command line of one run of LLaVA-NeXT's `train()`."""

import os
from pathlib import Path
from typing import Any

from tests.integrations.llava.cases import COMMON, Case, engine, words_of
from tests.integrations.llava_next.world import World

# Uneven enough that each task's weight can be told from the loss.
WEIGHTS = {"vqa": 1.7, "caption": 0.4, "story": 2.5, "video": 0.7, "chat": 0.9}
EQUAL = dict.fromkeys(WEIGHTS, 1.0)


def arguments(case: Case, world: World, output: Path) -> list[str]:
    """The command line of scripts/train/finetune_ov.sh, in small."""
    options: dict[str, Any] = {
        **COMMON,
        "model_name_or_path": world.model,
        "version": "qwen_1_5",
        "data_path": world.data,
        "image_folder": world.images,
        "video_folder": world.images,
        "vision_tower": world.tower,
        "mm_tunable_parts": "mm_mlp_adapter,mm_language_model",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
        "mm_patch_merge_type": "spatial_unpad",
        "frames_upbound": 4,
        "force_sample": True,
        "output_dir": output,
        "learning_rate": 0.02,
        "model_max_length": 1024,
        "gradient_checkpointing": False,
        "attn_implementation": "eager",
    }
    options |= engine(case)
    if "WORLD_SIZE" not in os.environ:
        options.pop("ddp_backend", None)
    options |= case.options
    if options["data_path"] == "mixture":
        options["data_path"] = world.mixture
    return words_of(options)
