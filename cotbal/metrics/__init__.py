"""Scores per item (answers, captions, boxes) and the improvement over single-task models."""

from cotbal.metrics.answer import exact_match
from cotbal.metrics.caption import cider
from cotbal.metrics.grounding import acc_at_iou, box_iou, parse_box
from cotbal.metrics.improvement import delta_e, delta_i, improvement

__all__ = [
    "acc_at_iou",
    "box_iou",
    "cider",
    "delta_e",
    "delta_i",
    "exact_match",
    "improvement",
    "parse_box",
]
