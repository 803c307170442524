"""Exact match of answers (visual question answering)."""

import math
from collections.abc import Sequence

from cotbal.metrics.items import check_pairs, check_texts, reference_lists
from cotbal.metrics.vqa_answers import rewritten

RULES = ("strict", "relaxed", "soft")


def exact_match(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    rule: str = "strict",
    strip: bool = True,
    lower: bool = True,
    full_stop: bool = True,
    tolerance: float = 0.05,
) -> list[float]:
    """Return the score of each answer, in 0..1; the defaults are the matching rules of the paper.

    Characters are compared as they stand, as the official evaluations do: "é" in one code point is not "e"
    with an accent in two. Where answers may be of either form, bring both to one (`unicodedata.normalize`).

    Args:
        predictions: one answer per item.
        references: one answer per item, or several of which any may match. VQAv2 is scored against its
            `multiple_choice_answer`, ChartQA with the strict rule.
        rule: "strict", 1 where the texts are equal; "relaxed", ChartQA's, where a number may also be off by
            `tolerance` of the reference; "soft", VQAv2's over the answers of several people: the mean over
            leaving one of them out of min(1, matches / 3). Where they differ, all are rewritten as its
            server does, without punctuation and articles and "two" as "2".
        strip: drop white space at both ends.
        lower: compare in lower case.
        full_stop: drop one full stop at the end.
        tolerance: the largest relative error of the "relaxed" rule.

    Raises:
        TypeError: an answer is not a string.
        ValueError: no items, unequal lengths, an item without a reference, an unknown rule or tolerance.

    Example:
        >>> exact_match(["Yes.", "2"], ["yes", "3"])
        [1.0, 0.0]
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: expected a relative error in 0..1, got {tolerance}")
    check_pairs(predictions, references)
    check_texts(predictions, "predictions")

    def normal(text: str) -> str:
        return _normal(text, strip=strip, lower=lower, full_stop=full_stop)

    scores = []
    for prediction, answers in zip(predictions, reference_lists(references), strict=True):
        given, wanted = normal(prediction), [normal(answer) for answer in answers]
        if rule == "soft":
            if len(set(wanted)) > 1:
                given, wanted = rewritten(given), [rewritten(answer) for answer in wanted]
            scores.append(_soft(given, wanted))
        else:
            matched = given in wanted or (
                rule == "relaxed" and any(_close(given, answer, tolerance) for answer in wanted)
            )
            scores.append(float(matched))
    return scores


def _normal(text: str, *, strip: bool, lower: bool, full_stop: bool) -> str:
    text = text.strip() if strip else text
    text = text.lower() if lower else text
    return text.removesuffix(".") if full_stop else text


def _close(given: str, wanted: str, tolerance: float) -> bool:
    value, target = _number(given), _number(wanted)
    # A reference of 0 leaves no relative error: only the equal text matches.
    if value is None or target is None or target == 0:
        return False
    # Divided, as ChartQA does: at exactly 5 % the rounding decides.
    return abs(value - target) / abs(target) <= tolerance


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    # Any number is within 5 percent of "inf".
    return number if math.isfinite(number) else None


def _soft(given: str, wanted: list[str]) -> float:
    if len(wanted) < 2:
        raise ValueError(
            "references: the rule 'soft' expected the answers of several people per item, got one; "
            "give all of them or use the rule 'strict'"
        )
    matches = [given == answer for answer in wanted]
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(wanted)
