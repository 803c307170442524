"""Matrix products that are summed in float32 whatever their factors are."""

from functools import cache

import torch
from torch import Tensor

# Rows or columns of the head at a time where a product needs temporaries.
_SLAB = 4096


def add_product_(total: Tensor, a: Tensor, b: Tensor, *, beta: int) -> None:
    """Writes beta total + a @ b to `total`, not rounded to 16 bits on the way.

    Args:
        total: (M, N) of the factors' dtype, or float32 for 16-bit factors.
        a: (M, K).
        b: (K, N).
        beta: 1, or 0 where `total` holds nothing yet.
    """
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, beta=beta, out=total)
    elif adds_wide_products(total.device):
        torch.addmm(total, a, b, beta=beta, out_dtype=total.dtype, out=total)
    elif total.is_cuda:
        # Products in float32 would take ten times as long: each is rounded once, their sum is not.
        total = total if beta else total.zero_()
        for slab, rows in zip(total.split(_SLAB), a.split(_SLAB), strict=True):
            slab.add_(rows @ b)
    else:
        _add_product_of_copies_(total, a, b, beta=beta)


def _add_product_of_copies_(total: Tensor, a: Tensor, b: Tensor, *, beta: int) -> None:
    """`add_product_` on float32 copies of the factors; of the head, the longest of them, in slabs."""
    (n_rows, n_inner), n_cols = a.shape, b.shape[1]
    if n_rows >= max(n_inner, n_cols):
        b = b.to(total.dtype)
        for slab, rows in zip(total.split(_SLAB), a.split(_SLAB), strict=True):
            torch.addmm(slab, rows.to(total.dtype), b, beta=beta, out=slab)
    elif n_cols >= n_inner:
        a = a.to(total.dtype)
        for slab, cols in zip(total.split(_SLAB, 1), b.split(_SLAB, 1), strict=True):
            torch.addmm(slab, a, cols.to(total.dtype), beta=beta, out=slab)
    else:
        for cols, rows in zip(a.split(_SLAB, 1), b.split(_SLAB), strict=True):
            torch.addmm(total, cols.to(total.dtype), rows.to(total.dtype), beta=beta, out=total)
            beta = 1


@cache
def adds_wide_products(device: torch.device) -> bool:
    """Whether this torch adds a 16-bit product to a float32 tensor; some refuse, so a tiny one is tried."""
    if device.type != "cuda" or not hasattr(torch.ops.aten.addmm, "dtype_out"):
        return False
    factor, total = (torch.ones(16, 16, device=device, dtype=dtype) for dtype in (torch.half, torch.float))
    try:
        torch.addmm(total, factor, factor, out_dtype=total.dtype, out=total)
    except RuntimeError:
        return False
    return True
