"""Before any test: no GPU is seen and kernels run in Triton's interpreter, one thread per process."""

import gc
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests are the same on every machine; `tests/test_on_gpu.py` starts a process that sees the GPUs.
os.environ.setdefault("TESTS_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "0,1"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch

# The decorator of a kernel reads this when its module is imported.
os.environ["TRITON_INTERPRET"] = "1"

# A job in the background ignores SIGINT, and whatever it starts: the tests that interrupt would wait in vain.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.interpreter import mend
from tests.settings import load_hypothesis_profile

torch.set_num_threads(1)
# The interpreter computes with numpy; on a GPU inf - inf gives NaN in silence, and so it must here.
np.seterr(all="ignore")
mend()
load_hypothesis_profile()


def pytest_collection() -> None:
    # Imports leave no garbage, and looking for it took a fifth of their time.
    gc.disable()


def pytest_collection_finish() -> None:
    # A training ends with a collection, which took as long as the training: to look through all the imports.
    gc.freeze()
    gc.enable()
