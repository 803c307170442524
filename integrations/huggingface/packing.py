"""The targets of a training batch and their tasks: padded, packed or a shard of the sequence."""

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cotbal.integrations.huggingface.collator import OTHER_KEY, TASK_IDS
from csrc_triton.checks import require

IGNORE_INDEX = -100


class Targets(NamedTuple):
    """What a batch trains on.

    Attributes:
        labels: (B, S) int64.
        task_ids: int64, (B,) or (B, S).
        shift: whether position t predicts the label at t + 1; False where the batch has `shift_labels`.
    """

    labels: Tensor
    task_ids: Tensor
    shift: bool


def batch_targets(batch: MutableMapping[str, Any]) -> Targets:
    """Returns the targets of a training batch, after writing into it what packing asks for.

    In packed rows the ids per segment become ids per token, and the first token of a segment is no target. A
    packed row is told by `cu_seq_lens_q`, or by `position_ids` that restart where there is no attention mask.

    Raises:
        ValueError: no ids, no labels, or as many ids as neither samples nor segments.
        TypeError: a batch that is no mapping, ids that are no integers, labels that are no tensor.
    """
    if not isinstance(batch, MutableMapping):
        raise TypeError(
            "data_collator: expected training batches that are mappings with labels, got "
            f"{type(batch).__name__}; use a collator that makes them, in a trainer that learns from labels"
        )
    task_ids, labels = batch.get(TASK_IDS), batch.get("shift_labels", batch.get("labels"))
    if "shift_labels" in batch:
        # Without labels a model computes no loss, whatever else it is given.
        batch.setdefault("labels", labels)
    if task_ids is None:
        raise ValueError(
            f"{TASK_IDS}: expected the records' task ids in every training batch, got none; wrap the "
            "collator, data_collator=TaskCollator(collator, tasks), and keep the key `task` in the records; "
            f"{OTHER_KEY}"
        )
    if labels is None:
        raise ValueError(
            f"labels: expected them in every training batch, got {', '.join(batch)}; use a collator that "
            "makes them"
        )
    if not isinstance(labels, Tensor):
        raise TypeError(
            "labels: expected a tensor (B, S) of int64 in every training batch, got "
            f"{type(labels).__name__}; use a collator that makes tensors"
        )
    kind = getattr(task_ids, "dtype", type(task_ids).__name__)
    if kind != torch.int64:
        raise TypeError(
            f"{TASK_IDS}: expected a tensor of int64, which no trainer casts, got {kind}; make it torch.int64"
        )
    shift = "shift_labels" not in batch
    starts = _segment_starts(batch, labels)
    if starts is not None:
        last = starts if shift else torch.nn.functional.pad(starts[:, 1:], (0, 1))
        labels = labels.masked_fill(last, IGNORE_INDEX)
        batch["labels" if shift else "shift_labels"] = labels
    # One id for one packed row may be what is left of an id per segment.
    cut = starts is not None and labels.shape[0] == 1 and task_ids.shape == (1,)
    if cut or task_ids.shape not in (labels.shape, labels.shape[:1]):
        task_ids = batch[TASK_IDS] = _ids_of_segments(task_ids, labels, starts)
    return Targets(labels, task_ids, shift)


def is_packed(batch: Mapping[str, Any]) -> bool:
    """Whether the rows of a batch with labels may have segments, by what it holds beside them."""
    return batch.get("cu_seq_lens_q") is not None or _positions(batch, batch["labels"]) is not None


def _positions(batch: Mapping[str, Any], labels: Tensor) -> Tensor | None:
    """The text's positions (B, S), which start again with each segment; None where there are none."""
    positions = batch.get("position_ids")
    if positions is not None and positions.ndim == 3 and positions.shape[0] == 4:
        # Qwen-VL's rotary positions in three directions, behind those of the text, which tell the segments.
        positions = positions[0]
    if positions is None or positions.shape != labels.shape or batch.get("attention_mask") is not None:
        return None
    return positions


def _segment_starts(batch: Mapping[str, Any], labels: Tensor) -> Tensor | None:
    """(B, S) bool, True at the first token of each segment; None where the rows are no packed ones."""
    boundaries, positions = batch.get("cu_seq_lens_q"), _positions(batch, labels)
    if boundaries is not None:
        starts = torch.zeros(labels.shape[-1] + 1, dtype=torch.bool, device=labels.device)
        return starts.index_fill_(0, boundaries.to(labels.device, torch.int64), True)[None, :-1]
    if positions is None:
        return None
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    return starts


def _ids_of_segments(task_ids: Tensor, labels: Tensor, starts: Tensor | None) -> Tensor:
    """(1, S) from one id per segment (K,); padding behind the last segment may look like more of them."""
    n_ids = task_ids.shape[0] if task_ids.dim() == 1 else 0
    if starts is None or labels.shape[0] != 1 or not n_ids:
        raise ValueError(
            f"{TASK_IDS}: expected one id per sample {tuple(labels.shape[:1])}, one per label "
            f"{tuple(labels.shape)}, or one per segment of a packed row with position_ids or cu_seq_lens_q "
            f"and without an attention mask, got the shape {tuple(task_ids.shape)}"
        )
    segment = starts.cumsum(-1) - 1
    fits = ((segment < n_ids) | (labels == IGNORE_INDEX)).all() & (segment[0, -1] >= n_ids - 1)
    expected = f"expected one id per segment, {n_ids} ids came; "
    if n_ids == 1:
        # Its loader takes the first of them for those of the one row.
        expected += "a streaming dataset needs accelerator_config={'dispatch_batches': False}; "
    require(fits, f"{TASK_IDS}: {expected}segments", segment[0, -1] + 1)
    return task_ids[segment.clamp(max=n_ids - 1)]
