"""One run of LLaVA's `train()`: its command line, and how it is patched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integrations.llava.world import World

# Uneven enough that each task's weight can be told from the loss.
WEIGHTS = {"vqa": 2.5, "caption": 0.2, "grounding": 4.0, "chat": 0.5}
EQUAL = dict.fromkeys(WEIGHTS, 1.0)


@dataclass(frozen=True)
class Case:
    """What to run.

    Attributes:
        name: of its folder.
        options: LLaVA's own options, over those of `arguments`.
        weights: for `cotbal.patch`: a mapping, or a name of `launch.WEIGHTINGS`; None: not patched.
        patch: further arguments of `cotbal.patch()`.
        zero: DeepSpeed's stage, 0 without DeepSpeed.
        model: the checkpoint of the world.
        order: the records in the order of each epoch; LLaVA's own sampler without it.
        resumes: the case whose output folder, with its checkpoint, this run goes on from.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] | str | None = field(default_factory=lambda: dict(WEIGHTS))
    patch: Mapping[str, Any] = field(default_factory=dict)
    zero: int = 0
    model: str = "scaled"
    order: list[int] | None = None
    resumes: str = ""


# Of LLaVA-NeXT's command line too.
COMMON = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_steps": 3,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "save_strategy": "no",
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "lazy_preprocess": True,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 1,
}


def arguments(case: Case, world: World, output: Path) -> list[str]:
    """The command line of scripts/v1_5/finetune.sh, in small."""
    options: dict[str, Any] = {
        **COMMON,
        "model_name_or_path": world.model(case.model),
        "version": "v1",
        "data_path": world.data,
        "image_folder": world.images,
        "vision_tower": world.tower,
        "image_aspect_ratio": "pad",
        "output_dir": output,
        "learning_rate": 0.015,
        "model_max_length": 256,
    }
    return words_of(options | engine(case) | case.options)


def engine(case: Case) -> dict[str, Any]:
    """DeepSpeed's configuration, or what it takes without one."""
    if case.zero:
        return {"deepspeed": Path(__file__).parent / f"zero{case.zero}.json"}
    return {"use_cpu": True, "ddp_backend": "gloo"}


def words_of(options: Mapping[str, Any]) -> list[str]:
    """The options as words."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
