"""Tensors as JSON values and back, bit for bit: a float's decimal form reads back as the same float."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

_KEYS = {"dtype", "values"}


def to_json(value: Any, where: str) -> Any:
    """`value` as JSON: tensors become {"dtype", "values"}, tuples lists, a mapping's keys strings.

    numpy's numbers become Python's.

    Raises:
        TypeError: something that JSON cannot hold; the message names it by `where`.
    """
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "values": value.detach().tolist()}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError(
        f"{where}: expected tensors, numbers, strings, or lists and dicts of them, "
        f"got {type(value).__name__}, which cannot be saved without a pickle"
    )


def from_json(value: Any, device: torch.device | str | None = None) -> Any:
    """What `to_json` wrote, the tensors on `device`; tuples stay lists and keys strings."""
    if isinstance(value, Mapping):
        if set(value) == _KEYS:
            return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]), device=device)
        return {key: from_json(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item, device) for item in value]
    return value
