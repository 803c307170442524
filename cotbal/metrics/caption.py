"""CIDEr-D of captions on the raw text, without a tokeniser and without Java."""

import math
from collections import Counter
from collections.abc import Sequence

from cotbal.metrics.items import check_pairs, check_texts, reference_lists

_MAX_N = 4
_SIGMA = 6.0

Ngram = tuple[str, ...]


def cider(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[float]:
    """Return the CIDEr-D of each caption, 0..10, equal to pycocoevalcap's `Cider` on the same texts.

    Words are what white space separates. The weights of the n-grams come from all references given, so an
    item's score depends on the corpus it is scored with; a corpus of one item scores 0.

    Args:
        predictions: one caption per item.
        references: one caption per item, or several.

    Raises:
        TypeError: a caption is not a string.
        ValueError: no items, unequal lengths, an item without a reference.

    Example:
        >>> [round(score, 6) for score in cider(["a red car", "two dogs"], ["a red car", "a cat"])]
        [7.5, 0.0]
    """
    check_pairs(predictions, references)
    check_texts(predictions, "predictions")
    items = [[_ngrams(text) for text in texts] for texts in reference_lists(references)]
    frequency = Counter(ngram for counts in items for ngram in set().union(*counts))
    log_items = math.log(len(items))

    def weigh(counts: Counter[Ngram]) -> list[dict[Ngram, float]]:
        weighted: list[dict[Ngram, float]] = [{} for _ in range(_MAX_N)]
        for ngram, count in counts.items():
            weighted[len(ngram) - 1][ngram] = count * (log_items - math.log(max(1, frequency[ngram])))
        return weighted

    scores = []
    for prediction, wanted in zip(predictions, items, strict=True):
        given = _ngrams(prediction)
        similarities = [
            _similarity(weigh(given), weigh(reference)) * _penalty(given, reference) for reference in wanted
        ]
        scores.append(10.0 * sum(similarities) / len(similarities))
    return scores


def _ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, _MAX_N + 1) for i in range(len(words) - n + 1))


def _similarity(given: list[dict[Ngram, float]], wanted: list[dict[Ngram, float]]) -> float:
    """Return the mean over n of the cosine of the n-gram vectors, the given one clipped to the wanted."""
    total = 0.0
    for ours, theirs in zip(given, wanted, strict=True):
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        if norms:
            total += (
                sum(min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in ours if ngram in theirs)
                / norms
            )
    return total / _MAX_N


def _penalty(given: Counter[Ngram], wanted: Counter[Ngram]) -> float:
    gap = _words(given) - _words(wanted)
    return math.exp(-(gap**2) / (2 * _SIGMA**2))


def _words(counts: Counter[Ngram]) -> int:
    return sum(count for ngram, count in counts.items() if len(ngram) == 1)
