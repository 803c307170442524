"""A device that refuses float64, as Apple's MPS does: tensors that say "meta" and hold numbers on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import cotbal._float64
from cotbal import linear_ops, ops

DEVICE = torch.device("meta")
# Their insides have to run on the device, not on what it holds.
_OPERATORS = {
    torch.ops.cotbal.gtw_cross_entropy.default: ops.gtw_cross_entropy_op._init_fn,
    torch.ops.cotbal.linear_gtw_cross_entropy.default: linear_ops.linear_gtw_cross_entropy_op._init_fn,
    torch.ops.cotbal.scale_.default: ops.scale_op._init_fn,
}


class OnDevice(Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        """TypeError for float64, as MPS raises it."""
        if held.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """Torch has none for such classes."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation on what is held."""
        return _run(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func in _OPERATORS:
        with _Device():
            return _OPERATORS[func](*args, **kwargs)
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    ours = [isinstance(each, OnDevice) for each in tensors]
    is_copy = func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
    if (
        any(ours)
        and not is_copy
        and any(not our and each.ndim for our, each in zip(ours, tensors, strict=True))
    ):
        raise RuntimeError(f"{func}: tensors on the CPU and on the device")
    asked = kwargs.get("device")
    on_device = any(ours[:1] if is_copy else ours) if asked is None else torch.device(asked) == DEVICE
    if any(ours) and not on_device and kwargs.get("non_blocking"):
        raise RuntimeError(f"{func}: to the CPU without waiting, to be read before it has come")
    args, kwargs = tree_map_only(OnDevice, lambda each: each.held, (args, kwargs))
    result = func(*args, **kwargs | ({} if asked is None else {"device": "cpu"}))
    return tree_map_only(Tensor, OnDevice, result) if on_device else result


@contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """The device; a float64 tensor on it, or one beside it that is elsewhere, raises."""
    with pytest.MonkeyPatch.context() as patch, _Device():
        patch.setattr(cotbal._float64, "WITHOUT_FLOAT64", frozenset({DEVICE.type}))
        yield DEVICE
