"""The public names; their modules import torch."""

from cotbal.estimate.rule_names import RULES
from cotbal.estimate.rules import estimate_weights, weights_from_signals
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
