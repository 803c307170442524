"""Which labels of a batch are targets, and of which task."""

from typing import Any

import pytest
import torch

from cotbal.integrations.huggingface.packing import batch_targets

LABELS = torch.tensor([[9, 1, 2, 9, 3, 9, 4, 5]])
# Segments of 3, 2 and 3 tokens.
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])
BOUNDARIES = torch.tensor([0, 3, 5, 8], dtype=torch.int32)
IDS = torch.tensor([2, 0, 1])
PER_TOKEN = [[2, 2, 2, 0, 0, 1, 1, 1]]


# The text's positions, then those of three directions: an image's tokens stand at one time.
OF_QWEN_VL = torch.stack([POSITIONS, *[torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1]])] * 3])


@pytest.mark.parametrize(
    "mark",
    [{"position_ids": POSITIONS}, {"cu_seq_lens_q": BOUNDARIES}, {"position_ids": OF_QWEN_VL}],
    ids=["positions", "boundaries", "positions of Qwen-VL"],
)
def test_ids_per_segment_become_ids_per_token_and_first_tokens_no_targets(mark: dict[str, Any]) -> None:
    batch = {"labels": LABELS.clone(), "cotbal_task_ids": IDS, **mark}
    targets = batch_targets(batch)
    assert targets.labels.tolist() == [[-100, 1, 2, -100, 3, -100, 4, 5]]
    assert targets.task_ids.tolist() == PER_TOKEN
    assert targets.shift
    # The model is to see the same.
    assert batch["labels"] is targets.labels
    assert batch["cotbal_task_ids"] is targets.task_ids
    assert batch_targets(batch).labels.tolist() == targets.labels.tolist(), "twice is as once"


def test_the_last_segment_may_be_one_token() -> None:
    positions, ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0]]), torch.tensor([2, 0, 1])
    targets = batch_targets({"labels": LABELS, "position_ids": positions, "cotbal_task_ids": ids})
    assert targets.task_ids.tolist() == [[2, 2, 2, 0, 0, 0, 0, 1]]
    assert targets.labels.tolist() == [[-100, 1, 2, -100, 3, 9, 4, -100]]


def test_shifted_labels_lose_what_the_next_segment_starts_with() -> None:
    shifted = torch.tensor([[1, 2, 9, 3, 9, 4, 5, -100]])
    batch = {"labels": LABELS, "shift_labels": shifted, "position_ids": POSITIONS, "cotbal_task_ids": IDS}
    targets = batch_targets(batch)
    assert targets.labels.tolist() == [[1, 2, -100, 3, -100, 4, 5, -100]]
    assert batch["shift_labels"] is targets.labels
    assert not targets.shift
    assert targets.task_ids.tolist() == PER_TOKEN


def test_shifted_labels_alone_give_the_model_its_labels() -> None:
    """A model that gets none computes no loss."""
    alone = {"shift_labels": LABELS, "cotbal_task_ids": IDS[:1]}
    assert batch_targets(alone).labels is LABELS
    assert alone["labels"] is LABELS


def test_padding_behind_the_last_segment_is_no_segment() -> None:
    labels = torch.cat([LABELS, torch.full((1, 2), -100)], 1)
    positions = torch.cat([POSITIONS, torch.zeros(1, 2, dtype=torch.int64)], 1)
    batch = {"labels": labels, "position_ids": positions, "cotbal_task_ids": IDS}
    assert batch_targets(batch).task_ids[:, :8].tolist() == PER_TOKEN


def test_padded_rows_stay_as_they_are() -> None:
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    # Left padding gives positions that restart, too: an attention mask says that rows are no packed ones.
    batch = {
        "labels": labels,
        "attention_mask": torch.ones(2, 3),
        "position_ids": torch.tensor([[1, 0, 1], [0, 1, 2]]),
        "cotbal_task_ids": torch.tensor([1, 0]),
    }
    targets = batch_targets(batch)
    assert targets.labels is labels
    assert targets.task_ids.tolist() == [1, 0]


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 2, 0]])
def test_other_than_one_id_per_segment_is_refused(ids: list[int]) -> None:
    batch = {"labels": LABELS, "position_ids": POSITIONS, "cotbal_task_ids": torch.tensor(ids)}
    with pytest.raises(
        ValueError, match=f"expected one id per segment, {len(ids)} ids came; segments, got 3"
    ):
        batch_targets(batch)


@pytest.mark.parametrize("mark", [{"position_ids": POSITIONS}, {"cu_seq_lens_q": BOUNDARIES}])
def test_one_id_of_a_row_of_several_segments_is_refused(mark: dict[str, Any]) -> None:
    batch = {"labels": LABELS, "cotbal_task_ids": IDS[:1], **mark}
    with pytest.raises(ValueError, match=r"1 ids came; a streaming dataset needs .*dispatch_batches"):
        batch_targets(batch)
    whole = {"labels": LABELS, "position_ids": torch.arange(8)[None], "cotbal_task_ids": IDS[:1]}
    assert batch_targets(whole).task_ids.unique().tolist() == IDS[:1].tolist()


def test_batches_that_cannot_be_trained_on_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected training batches that are mappings with labels, got list"):
        batch_targets([LABELS])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"task ids in every training batch, got none; wrap the collator"):
        batch_targets({"labels": LABELS})
    with pytest.raises(
        ValueError, match="labels: expected them in every training batch, got cotbal_task_ids"
    ):
        batch_targets({"cotbal_task_ids": IDS})
    with pytest.raises(
        TypeError, match=r"labels: expected a tensor \(B, S\) of int64 .*, got list; use a coll"
    ):
        batch_targets({"labels": LABELS.tolist(), "cotbal_task_ids": IDS})
    with pytest.raises(
        TypeError, match=r"expected a tensor of int64, which no trainer casts, got torch\.float32; make it"
    ):
        batch_targets({"labels": LABELS, "cotbal_task_ids": torch.tensor([1.0])})
    padded = {"labels": LABELS, "attention_mask": torch.ones(1, 8), "cotbal_task_ids": IDS}
    with pytest.raises(ValueError, match=r"expected one id per sample \(1,\), one per label \(1, 8\)"):
        batch_targets(padded | {"position_ids": POSITIONS})
    with pytest.raises(ValueError, match=r"one per segment of a packed row .* got the shape \(1, 3\)"):
        batch_targets({"labels": LABELS, "position_ids": torch.arange(8)[None], "cotbal_task_ids": IDS[None]})
