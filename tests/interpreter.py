"""Makes Triton's interpreter round float32 to bfloat16 as every GPU does: to nearest, ties to even.

The interpreter of triton 3.7 truncates instead: its doubled error would be measured, not the kernel's.
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


def round_bfloat16_to_nearest() -> None:
    interpreter._convert_float = _rounded
