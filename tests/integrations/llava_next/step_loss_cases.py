"""The settings in which LLaVA-NeXT is trained: its ways to lay out images and videos, and to step."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.integrations.llava.cases import Case
from tests.integrations.llava_next.cases import WEIGHTS
from tests.integrations.llava_next.records import task_order

BOUND = 1e-6

_TWO = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
# Cuts answers behind large images, some wholly.
_CUT = {"model_max_length": 120}
_CUT_TWO = "accumulation and truncation"
FILES = {f"{task}.json{'l' if task == 'chat' else ''}": task for task in WEIGHTS}


def _cases(options: Mapping[str, Mapping[str, Any]], order: list[int] | None = None) -> Iterator[Case]:
    return (Case(name, each, WEIGHTS, order=order) for name, each in options.items())


ALONE = (
    *_cases(
        {
            "plain": {},
            "truncation": _CUT,
            "accumulation": _TWO,
            "accumulation and truncation": _TWO | _CUT,
            "sampler by modality": {"group_by_modality_length": True},
            "two workers": {"dataloader_num_workers": 2},
            "LoRA": {"lora_enable": True, "lora_r": 4},
            "gradient checkpointing": {"gradient_checkpointing": True},
        }
    ),
    Case("files of a mixture", {"data_path": "mixture"}, WEIGHTS, {"tasks": FILES}),
    # As VisATB has them: weights in the order of the tasks, the task in the record.
    Case("a list of weights", {}, [*WEIGHTS.values()], {"tasks": [*WEIGHTS]}),
)
TWO_RANKS = (
    Case(f"DDP with {_CUT_TWO}", _TWO | _CUT, WEIGHTS),
    # Each rank draws its records by itself.
    Case("DDP, files of a mixture", {"data_path": "mixture"}, WEIGHTS, {"tasks": FILES}),
)
ENGINES = (
    Case("ZeRO-2", {}, WEIGHTS, zero=2),
    Case("ZeRO-3 with accumulation and truncation", _TWO | _CUT, WEIGHTS, zero=3),
)
# mm_patch_merge_type and image_aspect_ratio of its scripts, and what else changes the rows of an image.
_UNPAD = {"mm_patch_merge_type": "spatial_unpad"}
_LIST = "[(224,448),(448,224),(448,448),(672,224),(224,672)]"
_POOL = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_out_channels": 16, "mm_spatial_pool_mode": "average"}
_LAYOUTS: dict[str, dict[str, Any]] = {
    "flat, square": {"mm_patch_merge_type": "flat", "image_aspect_ratio": "square"},
    "flat, pad": {"mm_patch_merge_type": "flat", "image_aspect_ratio": "pad"},
    "flat, anyres": {"mm_patch_merge_type": "flat", "image_aspect_ratio": "anyres"},
    "unpad, pad": _UNPAD | {"image_aspect_ratio": "pad"},
    "unpad, anyres": _UNPAD | {"image_aspect_ratio": "anyres"},
    "unpad, anyres with a list": _UNPAD | {"image_aspect_ratio": "anyres", "image_grid_pinpoints": _LIST},
    "unpad, anyres_max_9": _UNPAD | {"image_aspect_ratio": "anyres_max_9"},
    "unpad, anyres_max_4": _UNPAD | {"image_aspect_ratio": "anyres_max_4"},
    "unpad without base": {"mm_patch_merge_type": "spatial_unpad_nobase", "image_aspect_ratio": "anyres"},
    "newline per frame": {"mm_newline_position": "frame"},
    "one newline": {"mm_newline_position": "one_token"},
    "no newline": {"mm_newline_position": "no_token"},
    "videos averaged": {"mm_spatial_pool_mode": "average"},
    "videos by their maxima": {"mm_spatial_pool_mode": "max"},
    "resampler": _POOL | {"mm_resampler_type": "spatial_pool"},
}
# Without "unpad" there is no newline, which its videos are laid out with by default.
_STILL_LAYOUTS: dict[str, dict[str, Any]] = {
    "spatial, pad": {"mm_patch_merge_type": "spatial", "image_aspect_ratio": "pad"},
    "spatial, anyres": {"mm_patch_merge_type": "spatial", "image_aspect_ratio": "anyres"},
    "maxpool2x2": {"mm_patch_merge_type": "spatial_maxpool2x2", "image_aspect_ratio": "anyres"},
    # Nor is there a place for a class token on the square grid on which videos are pooled.
    "class token": {
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad",
        "mm_vision_select_feature": "cls_patch",
    },
}
LAYOUTS = (
    *_cases(_LAYOUTS, task_order([*WEIGHTS], 3)),
    *_cases(_STILL_LAYOUTS, task_order(["vqa", "story", "caption", "chat"], 3)),
    *_cases({"text alone": {}}, task_order(["chat"], 8) * 2),
)
CONTROLS = ("plain", "truncation", _CUT_TWO, f"DDP with {_CUT_TWO}")


def with_controls(cases: Iterable[Case]) -> list[Case]:
    """The cases, and for some the same training by LLaVA-NeXT alone."""
    chosen = [case for case in cases if case.name in CONTROLS]
    return [*cases, *(replace(case, name=control(case.name), weights=None) for case in chosen)]


def control(name: str) -> str:
    return f"{name}, not patched"
