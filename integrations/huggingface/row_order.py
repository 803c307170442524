"""Whether a collator kept the order of its records, as far as their tokens tell."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100


def check_order(records: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> None:
    """Checks that the rows of a batch are not its records in another order.

    They are compared by their labels without the ignored ones; where the records have none, by their
    `input_ids` without what the attention mask hides. A batch is judged only where each row holds exactly
    what one record does: a collator that changes tokens, cuts them off or flattens its records passes.

    Args:
        records: with `labels` or `input_ids`, (S,) each.
        batch: with the same key, (B, S).

    Raises:
        ValueError: it holds the records in another order.
    """
    key = "labels" if all(record.get("labels") is not None for record in records) else "input_ids"
    rows, mask = batch.get(key), batch.get("attention_mask")
    if not isinstance(rows, Tensor) or rows.dim() != 2 or len(rows) != len(records):
        return
    masks = mask if isinstance(mask, Tensor) and mask.shape == rows.shape else [None] * len(rows)
    rows_tokens = [_tokens(key, row, mask) for row, mask in zip(rows, masks, strict=True)]
    records_tokens = [_tokens(key, record.get(key), record.get("attention_mask")) for record in records]
    # As tensors where all is well: long rows are slow to make lists of.
    if all(map(_are_equal, rows_tokens, records_tokens)):
        return
    got, given = _lists(rows_tokens), _lists(records_tokens)
    if got is None or given is None or sorted(got) != sorted(given):
        return
    row = next(index for index, tokens in enumerate(got) if tokens != given[index])
    raise ValueError(
        "collator: expected the rows of the batch in the order of the records, got record "
        f"{given.index(got[row])} in row {row}: it would be trained on as the task of another. Keep the "
        "order; records of like length come into one batch by a sampler, as under group_by_length"
    )


def _are_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and len(one) == len(other) and bool((one == other).all())


def _lists(tokens: Sequence[Tensor | None]) -> list[list[int]] | None:
    """None where one of them is None."""
    lists = [each.tolist() for each in tokens if each is not None]
    return lists if len(lists) == len(tokens) else None


def _tokens(key: str, values: Any, mask: Any) -> Tensor | None:
    """The tokens (S,) of a row or record; None of what is no sequence of them."""
    try:
        # A collator may make its batch on a GPU.
        values = torch.as_tensor(values, device="cpu")
        if values.dim() != 1:
            return None
        if key == "labels":
            return values[values != IGNORE_INDEX]
        return values if mask is None else values[torch.as_tensor(mask, device="cpu").bool()]
    except (IndexError, RuntimeError, TypeError, ValueError):
        return None
