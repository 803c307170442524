"""Which implementation runs a loss."""

import importlib.util
import os

import torch
from torch import Tensor

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")
# Found out once: a search of the path for every loss would cost more than small losses do.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def choose_implementation(impl: str, logits_like: Tensor) -> str:
    """The implementation for `impl`, the logits' dtype and device; COTBAL_IMPL takes the place of "auto".

    Raises:
        ValueError: an unknown name, or "triton" where it cannot run.
    """
    name = "impl"
    if impl == "auto" and os.environ.get("COTBAL_IMPL"):
        name, impl = "COTBAL_IMPL", os.environ["COTBAL_IMPL"]
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: expected one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    problem = _why_not_triton(logits_like)
    if impl == "auto":
        return "triton" if logits_like.is_cuda and problem is None else "torch"
    if impl == "triton" and problem is not None:
        raise ValueError(f'{name}="triton": {problem}; use {name}="auto"')
    return impl


def _why_not_triton(tensor: Tensor) -> str | None:
    if not _HAS_TRITON:
        return "triton is not installed"
    if tensor.dtype not in _TRITON_DTYPES:
        return f"the kernel takes float16, bfloat16 and float32, got {tensor.dtype}"
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the kernel needs a CUDA tensor, got one on {tensor.device}"
    return None
