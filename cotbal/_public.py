"""The public names; most of their modules import torch. `cotbal` asks for them when the first is used."""

from cotbal import metrics
from cotbal.estimate import Scores, contribution, difficulty, estimate_weights, weights_from_signals
from cotbal.gradcheck import GradientReport, check_gradients
from cotbal.losses import TaskStats, gtw_cross_entropy, linear_gtw_cross_entropy
from cotbal.modules import GTWLoss, LinearGTWLoss
from cotbal.patching import PatchHandle, patch, unpatch
from cotbal.weights import TaskWeights

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
