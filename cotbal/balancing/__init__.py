"""Weighting rules: task weights that depend on the step."""

from cotbal.balancing.tla import tla_weights, token_counts

__all__ = ["tla_weights", "token_counts"]
