import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from cotbal.metrics import cider

# Few words and short texts, so that n-grams repeat within and between items; empty texts and odd spaces too.
TEXT = st.lists(st.sampled_from(["a", "red", "car", "on", "the", "A", "car.", "é"]), max_size=9).map(
    "  ".join
)
ITEM = st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3))
COLORS, THINGS = ("red", "blue", "green", "dark", "bright"), ("car", "dog", "child", "boat", "train", "horse")
PLACES = (
    "on the left of the street",
    "next to a large tree",
    "in the water",
    "behind two people",
    "at night",
)
FORMS = (
    "a {color} {thing} {place}",
    "there is a {color} {thing} standing {place} .",
    "The image shows a {color} {thing} {place}, and nothing else.",
    "{thing} {place}",
)


def oracle(predictions, references):
    references = {i: [texts] if isinstance(texts, str) else list(texts) for i, texts in enumerate(references)}
    return Cider().compute_score(references, {i: [text] for i, text in enumerate(predictions)})[1].tolist()


def captions(rng, n):
    choices = {"color": rng.choice(COLORS), "thing": rng.choice(THINGS), "place": rng.choice(PLACES)}
    return [rng.choice(FORMS).format(**choices) for _ in range(n)]


@given(st.lists(ITEM, min_size=1, max_size=7))
def test_it_equals_pycocoevalcap_on_random_corpora(items):
    predictions, references = zip(*items, strict=True)
    assume(any(text for texts in references for text in texts))  # the oracle needs a word
    assert cider(predictions, references) == pytest.approx(oracle(predictions, references), abs=1e-9)


@pytest.mark.parametrize("n_references", [1, 5])
def test_it_equals_pycocoevalcap_on_captions(n_references):
    rng = random.Random(3)
    texts = [captions(rng, 1 + n_references) for _ in range(300)]
    predictions, references = [own for own, *_ in texts], [others for _, *others in texts]
    scores = cider(predictions, references)
    assert scores == pytest.approx(oracle(predictions, references), abs=1e-9)
    assert 0.5 < sum(scores) / len(scores) < 9.5


@given(st.lists(ITEM, min_size=2, max_size=6), st.randoms())
def test_the_order_of_the_items_does_not_matter(items, rng):
    shuffled = rng.sample(items, len(items))
    scores = dict(enumerate(cider(*zip(*items, strict=True))))
    again = cider(*zip(*shuffled, strict=True))
    assert sorted(again) == pytest.approx(sorted(scores.values()), abs=1e-9)


def test_the_text_is_taken_as_it_is():
    references = ["a red car", "two dogs play in the snow"]
    plain, other_case, full_stop = (
        cider([text, ""], references)[0] for text in ("a red car", "A red car", "a red car.")
    )
    assert plain == pytest.approx(7.5)
    assert other_case < plain
    assert full_stop < plain


def test_a_corpus_of_one_item_scores_0():
    assert cider(["a red car"], ["a red car"]) == [0.0]


@pytest.mark.parametrize(
    ("predictions", "references", "error", "message"),
    [
        ([], [], ValueError, "at least one item"),
        (["a"], ["a", "b"], ValueError, "got 2 for 1"),
        (["a"], [[]], ValueError, r"references\[0\]: expected at least one reference"),
        ("a", ["a"], TypeError, "single string"),
        (["a"], "a", TypeError, "single string"),
        (["a", None], ["a", "b"], TypeError, r"predictions\[1\]: expected a string, got None"),
        (["a"], [[3]], TypeError, r"references\[0\]\[0\]: expected a string, got 3"),
    ],
)
def test_bad_items_raise(predictions, references, error, message):
    with pytest.raises(error, match=message):
        cider(predictions, references)
