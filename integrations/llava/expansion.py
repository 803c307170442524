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
    training = True

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
        patches = tower.num_patches + (getattr(tower, "select_feature", "patch") == "cls_patch")
        return torch.zeros(images.shape[0], patches, 1)
