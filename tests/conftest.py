"""Before any test: kernels run in Triton's interpreter where there is no GPU, one thread per process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

# The decorator of a kernel reads this when its module is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from tests.interpreter import mend
from tests.settings import load_hypothesis_profile

torch.set_num_threads(1)
# The interpreter computes with numpy; on a GPU inf - inf gives NaN in silence, and so it must here.
np.seterr(all="ignore")
mend()
load_hypothesis_profile()
