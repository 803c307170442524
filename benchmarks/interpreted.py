"""Triton's interpreter for our kernels and the rivals', with the arithmetic of a GPU."""

import os
import sys

import numpy as np
import torch

from tests.interpreter import mend


def run_interpreted(module: str) -> None:
    """Starts `python -m module` anew where kernels would not be interpreted, and readies the interpreter.

    A kernel's decorator reads the variable when its module is imported, which is before this runs.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
    ready()


def ready() -> None:
    """One thread, rounding to bfloat16 as on a GPU, and a GPU's silence about infinities."""
    torch.set_num_threads(1)
    # The interpreter computes with numpy; on a GPU inf - inf gives NaN in silence, and so it must here.
    np.seterr(all="ignore")
    mend()
