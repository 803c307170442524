"""cotbal's own metrics by name, their matching rules given as text and recorded in full."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cotbal.metrics import acc_at_iou, box_iou, cider, exact_match


class _Metric(NamedTuple):
    score: Callable[..., list[float]]
    defaults: Mapping[str, str | bool | float]


# The defaults are the matching rules of the paper; `exact_match` and `acc_at_iou` explain each.
METRICS = {
    "EM": _Metric(
        exact_match, {"rule": "strict", "strip": True, "lower": True, "full_stop": True, "tolerance": 0.05}
    ),
    "CIDEr": _Metric(cider, {}),
    "Acc@IoU": _Metric(acc_at_iou, {"threshold": 0.5}),
    "mIoU": _Metric(box_iou, {}),
}
# The metric of each task of the paper; RefCOCO+ as RefCOCO.
TASK_METRICS = {
    "ShareGPT4V": "CIDEr",
    "VQAv2": "EM",
    "GQA": "EM",
    "ChartQA": "EM",
    "OCRVQA": "EM",
    "RefCOCO-caption": "CIDEr",
    "RefCOCO-bbox": "Acc@IoU",
    "RefCOCO+-caption": "CIDEr",
    "RefCOCO+-bbox": "Acc@IoU",
}
RULE_OPTIONS = {
    "rule": "EM: strict, relaxed (ChartQA's 5 %) or soft (VQAv2's, over several people's answers)",
    "strip": "EM: yes or no",
    "lower": "EM: yes or no",
    "full_stop": "EM: yes or no, drop one at the end",
    "tolerance": "EM, rule relaxed: the largest relative error",
    "threshold": "Acc@IoU: above which overlap a box is right",
}


def check_metric(metric: str, where: str) -> None:
    """Raise ValueError for a name that is no metric of cotbal's, with those that are."""
    if metric not in METRICS:
        hint = "; the paper's IoU is Acc@IoU, the mean overlap mIoU" if metric == "IoU" else ""
        raise ValueError(f"{where}: metric: expected one of {', '.join(METRICS)}, got {metric!r}{hint}")


def matching_rules(metric: str, options: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return every matching rule of a metric: the given ones, else the paper's.

    Raises:
        ValueError: an unknown metric, a rule that it does not have, a value of another kind, or a tolerance
            that the rule does not read.
    """
    check_metric(metric, where)
    defaults = METRICS[metric].defaults
    for name in options:
        if name in RULE_OPTIONS and name not in defaults:
            raise ValueError(f"{where}: metric {metric} has no matching rule {name!r}")
    rules = {
        name: _value(options[name], default, f"{where}: {name}") if name in options else default
        for name, default in defaults.items()
    }
    if "tolerance" in options and rules["rule"] != "relaxed":
        raise ValueError(f"{where}: tolerance: expected rule=relaxed beside it, got rule={rules['rule']}")
    return rules


def score_items(
    metric: str, predictions: Sequence[str], references: Sequence[Any], rules: Mapping[str, Any], where: str
) -> list[float]:
    """Return the score of each item by one of `METRICS`; ValueError says where it failed."""
    try:
        return METRICS[metric].score(predictions, references, **rules)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {metric}: {error}") from error


def _value(text: str, default: str | bool | float, where: str) -> str | bool | float:
    if isinstance(default, bool):
        if text not in ("yes", "no"):
            raise ValueError(f"{where}: expected yes or no, got {text!r}")
        return text == "yes"
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{where}: expected a number, got {text!r}") from None
    return text
