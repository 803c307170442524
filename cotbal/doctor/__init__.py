"""Whether cotbal is right on this machine, for this model: versions, the loss's level, one batch compared.

`cotbal doctor` prints it; from Python, `compare` takes a model and a batch of one's own, and `save_batch`
writes a batch for the command.
"""

from cotbal.doctor.compare import Comparison, Pass, compare
from cotbal.doctor.models import load_batch, load_model, random_batch, save_batch
from cotbal.doctor.versions import Package, devices, packages

__all__ = [
    "Comparison",
    "Package",
    "Pass",
    "compare",
    "devices",
    "load_batch",
    "load_model",
    "packages",
    "random_batch",
    "save_batch",
]
