"""The checks that every per-item metric makes on its predictions and references."""

from collections.abc import Sequence
from typing import Any


def check_pairs(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Check that predictions and references are lists of the same, non-zero length.

    Raises:
        TypeError: one of them is a single string.
        ValueError: no item, or different lengths.
    """
    for name, items in (("predictions", predictions), ("references", references)):
        if isinstance(items, str):
            raise TypeError(f"{name}: expected one entry per item, got the single string {items!r}")
    if len(predictions) != len(references):
        raise ValueError(
            f"references: expected one per prediction, got {len(references)} for {len(predictions)} items"
        )
    if not len(predictions):
        raise ValueError("predictions: expected at least one item to score, got none")


def check_texts(texts: Sequence[Any], name: str) -> None:
    """Check that every entry is a string; TypeError names the first that is not."""
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{place}]: expected a string, got {text!r}")


def reference_lists(references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Return the references of each item as a non-empty list of strings.

    Raises:
        TypeError: a reference is not a string.
        ValueError: an item without a reference.
    """
    lists = [[entry] if isinstance(entry, str) else list(entry) for entry in references]
    for place, entries in enumerate(lists):
        if not entries:
            raise ValueError(f"references[{place}]: expected at least one reference, got none")
        check_texts(entries, f"references[{place}]")
    return lists
