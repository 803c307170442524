"""What hastens the tests' interpreter changes no bit of what a kernel computes."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

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
