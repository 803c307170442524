"""Mends Triton's interpreter for the tests: how it rounds, and how long it takes.

The interpreter of triton 3.7 truncates float32 to bfloat16 where every GPU rounds to nearest, ties to even:
its doubled error would be measured, not the kernel's. It patches the language anew for each call of a
function inside a kernel, a millisecond and a layer of wrappers each, although the launch has done it. And for
each value it makes a table of all dtypes and the value's shape anew, a quarter of a kernel's time.
"""

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_convert = interpreter._convert_float


def _rounded(data: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
    if source != tl.float32 or target != tl.bfloat16:
        return _convert(data, source, target, rounding_mode)
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Adding to a NaN's bits could make an infinity of it.
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded).reshape(data.shape)


_np_dtype, _new_tensor = interpreter._get_np_dtype, tl.tensor.__init__
_np_dtypes: dict[str, np.dtype] = {}
_shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}


def _known_np_dtype(dtype: Any) -> np.dtype:
    name = str(dtype.scalar)
    if name not in _np_dtypes:
        _np_dtypes[name] = _np_dtype(dtype)
    return _np_dtypes[name]


def _tensor_of_known_shape(tensor: Any, handle: Any, type: Any) -> None:
    shape = type.shape if type.is_block() else ()
    if shape not in _shapes:
        _new_tensor(tensor, handle, type)
        _shapes[shape] = tensor.shape, tensor.numel
    tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
    tensor.shape, tensor.numel = _shapes[shape]


_patched: set[int] = set()


def _call(function: interpreter.InterpretedFunction, *arguments: Any, **options: Any) -> Any:
    # The launch patches the names that kernels use and takes it back; what triton's own functions use stays.
    is_own = function.fn.__module__.startswith("triton.")
    if is_own and id(function.fn.__globals__) not in _patched:
        _patched.add(id(function.fn.__globals__))
        interpreter._patch_lang(function.fn)
    return function.rewrite()(*arguments, **options)


def mend() -> None:
    interpreter._convert_float = _rounded
    interpreter.InterpretedFunction.__call__ = _call
    interpreter._get_np_dtype = _known_np_dtype
    tl.tensor.__init__ = _tensor_of_known_shape
