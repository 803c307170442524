"""The command line of one run of LLaVA-NeXT's `train()`."""

import os
from pathlib import Path
from typing import Any

from tests.integrations import llava
from tests.integrations.llava.cases import Case
from tests.integrations.llava_next.world import World

# Uneven enough that each task's weight can be told from the loss.
WEIGHTS = {"vqa": 1.7, "caption": 0.4, "story": 2.5, "video": 0.7, "chat": 0.9}
EQUAL = dict.fromkeys(WEIGHTS, 1.0)


def arguments(case: Case, world: World, output: Path) -> list[str]:
    """The command line of scripts/train/finetune_ov.sh, in small."""
    options: dict[str, Any] = {
        "model_name_or_path": world.model,
        "version": "qwen_1_5",
        "data_path": world.data,
        "image_folder": world.images,
        "video_folder": world.images,
        "vision_tower": world.tower,
        "mm_tunable_parts": "mm_mlp_adapter,mm_language_model",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
        "mm_patch_merge_type": "spatial_unpad",
        "frames_upbound": 4,
        "force_sample": True,
        "output_dir": output,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": 3,
        "optim": "sgd",
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_steps": 1,
        "model_max_length": 1024,
        "gradient_checkpointing": False,
        "attn_implementation": "eager",
        "dataloader_num_workers": 0,
        "lazy_preprocess": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 1,
    }
    if case.zero:
        options["deepspeed"] = Path(llava.__file__).parent / f"zero{case.zero}.json"
    else:
        options["use_cpu"] = True
        if "WORLD_SIZE" in os.environ:
            options["ddp_backend"] = "gloo"
    options |= case.options
    if options["data_path"] == "mixture":
        options["data_path"] = world.mixture
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
