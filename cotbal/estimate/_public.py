"""The public names, whose modules import torch."""

from cotbal.estimate.rules import RULES, estimate_weights, weights_from_signals
from cotbal.estimate.scores import Scores
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all, unidentified

__all__ = [
    "RULES",
    "Scores",
    "all2one",
    "contribution",
    "difficulty",
    "estimate_weights",
    "one2all",
    "unidentified",
    "weights_from_signals",
]
