"""cotbal: the task-weighted loss and the task balancing of visual instruction tuning.

Importing this patches nothing, touches no GPU and prints nothing.
"""

from importlib.metadata import PackageNotFoundError, version

from cotbal import metrics
from cotbal.estimate import Scores, contribution, difficulty, estimate_weights, weights_from_signals
from cotbal.gradcheck import GradientReport, check_gradients
from cotbal.losses import TaskStats, gtw_cross_entropy, linear_gtw_cross_entropy
from cotbal.modules import GTWLoss, LinearGTWLoss
from cotbal.patching import PatchHandle, patch, unpatch
from cotbal.weights import TaskWeights

try:
    __version__ = version("cotbal")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "GTWLoss",
    "GradientReport",
    "LinearGTWLoss",
    "PatchHandle",
    "Scores",
    "TaskStats",
    "TaskWeights",
    "check_gradients",
    "contribution",
    "difficulty",
    "estimate_weights",
    "gtw_cross_entropy",
    "linear_gtw_cross_entropy",
    "metrics",
    "patch",
    "unpatch",
    "weights_from_signals",
]
