"""What hastens the tests' interpreter changes no bit of what a kernel computes."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

# Whole words and edges, little and much of a block; options that go through every helper of the kernel.
CODE = """
import sys
import tests.interpreter as interpreter
if sys.argv[1] == "as triton has it":
    interpreter._hasten = lambda operations: None
interpreter.mend()

import hashlib
import torch
import cotbal

bits = hashlib.sha256()
labels, ids, weights = torch.tensor([0, -100, 5, 36]), torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 0.5])
for dtype in (torch.float32, torch.bfloat16):
    for n_cols in (37, 519):
        for options in ({}, {"softcap": 9.0}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
            torch.manual_seed(n_cols)
            hidden = torch.randn(4, 16).to(dtype).requires_grad_()
            head = torch.randn(n_cols, 16).to(dtype).requires_grad_()
            logits = (hidden @ head.T).detach().requires_grad_()
            for loss in (
                cotbal.gtw_cross_entropy(logits, labels, ids, weights, impl="triton", **options),
                cotbal.linear_gtw_cross_entropy(hidden, head, labels, ids, weights, impl="triton", **options),
            ):
                loss.backward()
                bits.update(loss.detach().numpy().tobytes())
            for tensor in (logits, hidden, head):
                bits.update(tensor.grad.view(torch.uint8).numpy().tobytes())
print(bits.hexdigest())
"""


def bits(how: str) -> str:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CODE, how], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.full
def test_the_same_bits_as_with_tritons_own() -> None:
    assert bits("hastened") == bits("as triton has it")


@triton.jit
def _numbers_kernel(x_ptr, n, out_ptr, BY: tl.constexpr):
    x = tl.load(x_ptr)
    tl.store(out_ptr + 0, x - BY)
    tl.store(out_ptr + 1, BY - x)
    tl.store(out_ptr + 2, n * BY)
    tl.store(out_ptr + 3, BY * n)


def test_numbers_that_are_kept_are_told_apart() -> None:
    """As an integer the last would be too large."""
    for x, n, by in ((2.0, 3, 2), (-3.0, 5, 3), (2.0, 2**30, 2.0)):
        out = torch.empty(4)
        _numbers_kernel[(1,)](torch.tensor([x]), n, out, by)
        assert out.tolist() == [x - by, by - x, n * by, n * by]


@triton.jit
def _far_kernel(out_ptr, n, OPERATION: tl.constexpr):
    if OPERATION == "add":
        tl.store(out_ptr, n + n)
    elif OPERATION == "sub":
        tl.store(out_ptr, -n - n)
    else:
        tl.store(out_ptr, n * 4)


@pytest.mark.parametrize("operation", ["add", "sub", "mul"])
def test_an_overflow_is_found(operation: str) -> None:
    out = torch.empty(1, dtype=torch.int32)
    _far_kernel[(1,)](out, 2**28, operation)
    with pytest.raises(Exception, match=f"int32 overflow detected for operation {operation}"):
        _far_kernel[(1,)](out, 2**30 + 1, operation)
