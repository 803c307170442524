"""What a batch must be to go through a model: else torch's own error would come, from deep inside."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_STACKED = (
    "save what the collator makes of several records, "
    'cotbal.doctor.save_batch(collator(records), "batch.safetensors")'
)


def check_batch(model: Any, batch: Mapping[str, Any]) -> None:
    """Checks the labels and the tokens of a batch.

    Args:
        model: a transformers model, or PEFT's of one.
        batch: with `labels` (B, S) int64.

    Raises:
        TypeError: labels that are no tensor, or of another dtype.
        ValueError: other shapes, tokens or labels out of the vocabulary, or nothing to train on.
    """
    labels, tokens = batch.get("labels"), batch.get("input_ids")
    if not isinstance(labels, Tensor):
        got = "none" if labels is None else f"a {type(labels).__name__}"
        raise TypeError(
            f"batch: expected a tensor of int64 as labels, got {got}; pass what the collator makes of "
            "training records"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"batch: expected labels of int64, got {labels.dtype}; use labels.long()")
    if labels.ndim != 2:
        raise ValueError(f"batch: expected labels (B, S), got the shape {tuple(labels.shape)}; {_STACKED}")
    if tokens is not None and tokens.shape != labels.shape:
        raise ValueError(
            f"batch: expected labels of the shape of input_ids, {tuple(tokens.shape)}, got "
            f"{tuple(labels.shape)}; pad both alike, labels with -100"
        )
    config = model.config
    _check_range("labels", labels, config.get_text_config().vocab_size, {-100})
    if tokens is not None:
        _check_range("input_ids", tokens, config.get_text_config().vocab_size, special_ids(config.to_dict()))
    if not (labels[:, 1:] != -100).any():
        raise ValueError("batch: expected labels to train on, got -100 alone behind each row's first token")


def special_ids(config: dict[str, Any]) -> set[int]:
    """The ids of special tokens, wherever they stand in a configuration."""
    found: set[int] = set()
    for key, value in config.items():
        if isinstance(value, dict):
            found |= special_ids(value)
        elif str(key).endswith(("_token_id", "_token_index")) and isinstance(value, int):
            found.add(value)
    return found


def _check_range(name: str, values: Tensor, n_cols: int, besides: set[int]) -> None:
    wrong = (values < 0) | (values >= n_cols)
    for each in besides:
        wrong &= values != each
    if wrong.any():
        raise ValueError(
            f"batch: expected {name} in 0..{n_cols - 1}, the model's vocabulary, "
            f"got {int(values[wrong][0])}; "
            "is it the tokenizer of this model? (a padded label is -100)"
        )
