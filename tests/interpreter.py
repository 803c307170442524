"""Mends Triton's interpreter for the tests: how it rounds, and how long it takes.

The interpreter of triton 3.7 truncates float32 to bfloat16 where every GPU rounds to nearest, ties to even:
its doubled error would be measured, not the kernel's. It patches the language anew for each call of a
function inside a kernel, a millisecond and a layer of wrappers each, although the launch has done it. And for
each value it makes a table of all dtypes, the value's type and its shape anew, and compares shapes by taking
them apart: half of a kernel's time. Here a type is made once, and what is the same object is equal. Half of
what was left went into operands that are of one type already, into a block of each number anew, and into the
look for an overflow, a dozen operations of whose outcome nothing is told. Here it is one, and an error.
"""

from typing import Any

import numpy as np
import triton.language as tl
from triton.language import semantic
from triton.runtime import interpreter

_convert = interpreter._convert_float


def _rounded(data: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
    if source != tl.float32 or target != tl.bfloat16:
        return _convert(data, source, target, rounding_mode)
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Adding to a NaN's bits could make an infinity of it.
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded).reshape(data.shape)


_np_dtype = interpreter._get_np_dtype
_np_dtypes: dict[str, np.dtype] = {}


def _known_np_dtype(dtype: Any) -> np.dtype:
    name = str(dtype.scalar)
    if name not in _np_dtypes:
        _np_dtypes[name] = _np_dtype(dtype)
    return _np_dtypes[name]


_new_tensor, _new_block_type = tl.tensor.__init__, tl.block_type.__init__
_block_types: dict[tuple[Any, ...], Any] = {}


def _known_block_type(kind: type, element: Any, shape: Any) -> Any:
    key = (str(element), getattr(element, "address_space", None), *shape)
    if key not in _block_types:
        _block_types[key] = object.__new__(kind)
    return _block_types[key]


def _block_type_once(block: Any, element: Any, shape: Any) -> None:
    if "name" not in block.__dict__:  # the last that it sets
        _new_block_type(block, element, shape)


def _tensor_of_known_shape(tensor: Any, handle: Any, type: Any) -> None:
    known = type.__dict__
    if "of_tensor" not in known:
        _new_tensor(tensor, handle, type)
        known["of_tensor"] = tensor.shape, tensor.numel
    tensor.handle, tensor.type, tensor.dtype = handle, type, type.scalar
    tensor.shape, tensor.numel = known["of_tensor"]


def _same_first(equal: Any) -> Any:
    return lambda one, other: one is other or equal(one, other)


def _unlike_only(broadcast: Any) -> Any:
    return lambda self, left, right: (
        (left, right) if left.shape is right.shape else broadcast(self, left, right)
    )


# Two operands of one of these are what they are computed as.
_SETTLED = (tl.float32, tl.int32, tl.int64)
# A number beside such an operand, as the operand's type; with it the type, whose id is in the key.
_numbers: dict[tuple[Any, ...], tuple[Any, Any]] = {}


def _settled_first(check: Any) -> Any:
    def checked(self: Any, left: Any, right: Any, *options: Any, **named: Any) -> tuple[Any, Any]:
        kinds = getattr(left, "type", None), getattr(right, "type", None)
        if kinds[0] is kinds[1] and kinds[0] is not None and kinds[0].scalar in _SETTLED:
            return left, right
        place = 0 if kinds[0] is None else 1
        operands, kind = [left, right], kinds[1 - place]
        number, beside = operands[place], operands[1 - place]
        if type(number) not in (int, float) or kind is None or kind.scalar not in _SETTLED:
            return check(self, left, right, *options, **named)
        # 1 and 1.0 are equal; Triton has no -0.0.
        key = type(number), number, id(kind), options, *named.items()
        if key not in _numbers:
            found = check(self, left, right, *options, **named)
            if found[1 - place] is not beside:
                return found
            _numbers[key] = found[place], kind
        operands[place] = _numbers[key][0]
        return operands[0], operands[1]

    return checked


_OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def _overflow_at_once(check: Any) -> Any:
    def checked(self: Any, left: Any, right: Any, operation: Any) -> None:
        if left.type.scalar != tl.int32:
            return check(self, left, right, operation)
        exact = _OPERATIONS[operation.__name__](left.handle.data, right.handle.data, dtype=np.int64)
        if (exact != exact.astype(np.int32)).any():
            raise AssertionError(f"int32 overflow detected for operation {operation.__name__}")
        return None

    return checked


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
    # With a triton before 3.4, which has no such class, tests compile kernels and run none.
    if hasattr(semantic, "TritonSemantic"):
        _hasten(semantic.TritonSemantic)


def _hasten(operations: Any) -> None:
    interpreter._get_np_dtype = _known_np_dtype
    tl.block_type.__new__ = _known_block_type
    tl.block_type.__init__ = _block_type_once
    tl.tensor.__init__ = _tensor_of_known_shape
    for kind in (tl.dtype, tl.block_type, tl.tuple):
        kind.__eq__ = _same_first(kind.__eq__)
    operations.broadcast_impl_value = _unlike_only(operations.broadcast_impl_value)
    operations.binary_op_type_checking_impl = _settled_first(operations.binary_op_type_checking_impl)
    operations.binary_op_sanitize_overflow_impl = _overflow_at_once(
        operations.binary_op_sanitize_overflow_impl
    )
