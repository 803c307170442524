"""Weighting rules: task weights that are constant, or change with every optimizer step."""

from cotbal.balancing.base import Weighting
from cotbal.balancing.dwa import DWA
from cotbal.balancing.given import Weights, as_weighting, stated_tasks
from cotbal.balancing.igb import IGBv1
from cotbal.balancing.registry import by_name
from cotbal.balancing.rlw import RLW
from cotbal.balancing.rule_file import load_rule, rule_content, save_rule
from cotbal.balancing.static import StaticWeights
from cotbal.balancing.tla import TLA
from cotbal.balancing.torchjd import TorchJDWeighting

__all__ = [
    "DWA",
    "RLW",
    "TLA",
    "IGBv1",
    "StaticWeights",
    "TorchJDWeighting",
    "Weighting",
    "Weights",
    "as_weighting",
    "by_name",
    "load_rule",
    "rule_content",
    "save_rule",
    "stated_tasks",
]
