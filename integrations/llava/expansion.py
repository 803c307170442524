"""The labels that LLaVA's model will train on: images put in, cut to the maximal length, padded.

The denominator of a step is needed before its first forward pass, and counting the collator's labels would
count what the model cuts off. So the model's own `prepare_inputs_labels_for_multimodal` runs on hidden states
of width 1: whatever it does to labels is done, and no vision tower, embedding or parameter is touched.
"""

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor


def check_expansion(model: Any) -> None:
    """Checks that the number of rows which an image becomes follows from its shape and the tower's patches.

    Args:
        model: LLaVA's model behind its wrappers, or a text model.

    Raises:
        ValueError: a tower or a projector that makes a number of its own.
    """
    tower = model.get_vision_tower() if hasattr(model, "get_vision_tower") else None
    if tower is None:
        return
    if not hasattr(tower, "num_patches_per_side"):
        raise ValueError(
            f"vision_tower: expected one that tells its patches (CLIP, SigLIP, MLCD, OpenCLIP), got "
            f"{type(tower).__name__}: the tokens of a step cannot be counted before its forward pass"
        )
    projector = getattr(model.config, "mm_projector_type", None)
    if projector == "pooler":
        raise ValueError(
            "mm_projector_type: expected one that keeps the number of image tokens (linear, mlp2x_gelu), got "
            f"{projector!r}: the tokens of a step cannot be counted before its forward pass"
        )


def expanded_labels(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """The labels (B, S) int64 on the CPU that the model makes of a collated batch.

    Args:
        model: LLaVA's model behind its wrappers, or a text model, whose labels stay as they are.
        batch: `input_ids`, `labels`, `attention_mask`, and whatever of `images` it has.

    Raises:
        ValueError: no labels in the batch.
    """
    if batch.get("labels") is None:
        raise ValueError(f"labels: expected them in every training batch, got {', '.join(batch)}")
    labels = batch["labels"].cpu()
    prepare = getattr(type(model), "prepare_inputs_labels_for_multimodal", None)
    if prepare is None:
        return labels
    mask, images = batch.get("attention_mask"), batch.get("images")
    optional = {key: batch[key] for key in ("modalities", "image_sizes") if batch.get(key) is not None}
    made = prepare(
        _Narrow(model),
        batch["input_ids"].cpu(),
        None,
        None if mask is None else mask.cpu(),
        None,
        labels,
        None if images is None else _shapes(images),
        **optional,
    )
    return made[5]


def _shapes(images: Tensor | list[Tensor]) -> Any:
    """The images without their pixels."""
    if isinstance(images, list):
        return [_shapes(image) for image in images]
    return torch.empty(images.shape, device="meta")


class _Narrow:
    """Stands in for the model in its own code: everything is the model's, but hidden states have width 1."""

    device = torch.device("cpu")
    # In training LLaVA-NeXT may draw skipped positions here: the draws are those of the pass itself.
    training = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        # Methods run on the stand-in, so that what they call is narrow as well.
        found = getattr(type(self._model), name, None)
        return MethodType(found, self) if isinstance(found, FunctionType) else getattr(self._model, name)

    @property
    def model(self) -> "_Narrow":
        return self

    @property
    def image_newline(self) -> Tensor:
        return torch.zeros(1)

    def get_model(self) -> "_Narrow":
        return self

    def get_vision_tower(self) -> Any:
        return self._model.get_vision_tower()

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, 1)

    def encode_images(self, images: Tensor) -> Tensor:
        tower = self._model.get_vision_tower()
        # Not num_patches: LLaVA-NeXT's towers count the class token in it, v1.5's do not.
        patches = tower.num_patches_per_side**2 + ("cls_patch" in getattr(tower, "select_feature", ""))
        return torch.zeros(images.shape[0], patches, 1)
