"""Batches that are made before the first step, so that what would end the training in one is told at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cotbal.integrations.huggingface.finetune.collator import DialogueCollator
from cotbal.integrations.huggingface.finetune.model import vision_parts
from cotbal.integrations.huggingface.finetune.records import Records, pictures_of

_SETTINGS = "--image_processor_kwargs"


def try_records(
    collator: DialogueCollator, records: Records, places: Sequence[int], size: int
) -> dict[str, Tensor]:
    """Makes a batch of each of some records, and of two with unlike pictures, which it returns.

    Args:
        collator: makes them.
        records: all of them.
        places: of those to try.
        size: of a batch in the training; no two are tried where it is 1.

    Raises:
        ValueError: one of them cannot be made.
    """
    for place in places:
        collator([records[place]])
    unlike = _unlike(collator, [records[place] for place in places])[:size]
    try:
        return collator(unlike) if unlike else {}
    except (RuntimeError, ValueError) as error:
        names = " and ".join(each["item"].name for each in unlike)
        raise ValueError(
            f"{_SETTINGS}: expected pictures of which it makes one batch, got those of {names}: {error}; let "
            "it make them of one size, or use --per_device_train_batch_size 1"
        ) from error


def check_size(model: nn.Module, pixels: Tensor | None) -> None:
    """Raises ValueError where a vision tower of pictures of one size, as CLIP's, takes none of this one.

    Args:
        model: the model; nothing is computed.
        pixels: (B, C, H, W); others, or None, are not looked at.
    """
    tower = next(vision_parts(model), None)
    own = getattr(getattr(tower, "config", None), "image_size", None)
    if tower is None or pixels is None or pixels.ndim != 4 or not isinstance(own, int):
        return
    error = _failure(tower, pixels.shape)
    # One that takes more than pixels, or reads them, fails with its own size as well: it cannot be told.
    if error is not None and _failure(tower, (*pixels.shape[:2], own, own)) is None:
        raise ValueError(
            f"{_SETTINGS}: expected pictures of a size that {type(tower).__name__} takes, as {own} x {own}, "
            f"got {pixels.shape[-2]} x {pixels.shape[-1]}: {error}"
        ) from error


def _failure(tower: nn.Module, shape: Sequence[int]) -> Exception | None:
    """What a tower says of pixels of a shape."""
    tensors = {name: each.to("meta") for name, each in (*tower.named_parameters(), *tower.named_buffers())}
    pixels = torch.empty(*shape, dtype=next(tower.parameters()).dtype, device="meta")
    try:
        with torch.no_grad():
            functional_call(tower, tensors, (pixels,))
    except Exception as error:  # a class's own code may fail with anything
        return error
    return None


def _unlike(collator: DialogueCollator, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The two whose pictures differ the most in shape, then in size; one or none where there are no more."""

    def shape(record: Mapping[str, Any]) -> tuple[float, int]:
        width, height = pictures_of(record["item"], collator.folder)[0].size
        return width / height, width

    ordered = sorted((each for each in records if each["item"].dialogue.images), key=shape)
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
