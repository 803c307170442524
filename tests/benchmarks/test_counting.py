"""The counter of bytes against losses whose traffic is known by hand."""

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from benchmarks.counting import count, per_logit
from benchmarks.inputs import Case
from benchmarks.provider import Provider

LOGITS = Case("logits", 16, 256, share=1.0, dtype="float16")
LINEAR = Case("linear", 16, 256, 24, share=1.0, dtype="float16")


def passes(loss, case: Case) -> tuple[float, float]:
    traffic = count(Provider("by hand", case.level, loss, ""), case)
    return per_logit(traffic.logits[0], case), per_logit(traffic.logits[1], case)


def test_operations_of_torch() -> None:
    """Softmax reads and writes once; its gradient reads two and writes one, that of the pick writes one."""

    def loss(inputs):
        rows = F.cross_entropy(inputs.features[0], inputs.labels, reduction="none")
        return torch.dot(rows.float(), inputs.row_scale)

    assert passes(loss, LOGITS) == (3, 3)


def test_views_and_metadata_are_free() -> None:
    """A sum reads its half; the gradient of the view is one write, of a scalar."""

    def loss(inputs):
        return inputs.features[0].t().unsqueeze(0)[:, :128].sum().float()

    assert passes(loss, LOGITS) == (0.5, 1)


@triton.jit
def _double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    cols = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * n + cols, mask=cols < n - 1, other=0.0)
    tl.store(out_ptr + row * n + cols, 2 * x, mask=cols < n)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        out = torch.empty_like(x)
        _double_kernel[(x.shape[0],)](x, out, x.shape[1], BLOCK=256)
        return out[0, 0].float()

    @staticmethod
    def backward(ctx, upstream):
        return torch.empty(LOGITS.rows, LOGITS.vocabulary, dtype=torch.float16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted on a CPU only")
def test_kernels_count_what_their_masks_let_through() -> None:
    assert passes(lambda inputs: _Doubled.apply(inputs.features[0]), LOGITS) == (255 / 256, 1)


def test_products_are_listed_apart() -> None:
    def loss(inputs):
        hidden, head = inputs.features
        return (hidden @ head.t())[0, 0].float()

    traffic = count(Provider("by hand", "linear", loss, ""), LINEAR)
    # The logits written by one product and read by two; their gradient is zeros with one number in them.
    assert traffic.products[1] >= LINEAR.rows * LINEAR.vocabulary * 2
    assert traffic.logits[1] <= 3 * LINEAR.rows * LINEAR.vocabulary * 2


@torch.library.custom_op("cotbal_tests::add_one_twice", mutates_args=())
def _add_one_twice(x: torch.Tensor) -> torch.Tensor:
    return x + 1 + 1


def test_custom_operators_are_looked_into() -> None:
    def loss(inputs):
        return _add_one_twice(inputs.features[0].detach()).sum().float() + 0 * inputs.features[0][0, 0]

    read, written = passes(loss, LOGITS)
    # Two additions, a sum, and the gradient: zeros with one entry set.
    assert (read, written) == (3, 2 + 1)
