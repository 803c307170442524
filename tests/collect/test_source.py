import pytest

from cotbal.collect import source
from cotbal.collect.formats import FORMATS, reader
from cotbal.collect.source import parse_source
from tests.examples import check_examples


def test_the_words_of_a_source_may_come_in_any_order_and_in_quotes():
    first = parse_source("VQA v2: format=llava from='a b/*.jsonl' metric=EM truth=t.json better=higher")
    second = parse_source("VQA v2: better=higher metric=EM truth=t.json format=llava from='a b/*.jsonl'")
    assert first == second
    assert (first.task, first.name, first.options) == ("VQA v2", "a b/*.jsonl", {"truth": "t.json"})
    assert first.items


def test_a_task_may_have_a_colon_in_its_name():
    found = parse_source("OCR: bills: format=csv from=a:b metric=m")
    assert (found.task, found.name) == ("OCR: bills", "a:b")


def test_the_example_runs():
    check_examples(source.parse_source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format=csv from=a metric=m", "expected 'TASK: format"),
        (": format=csv", "expected 'TASK: format"),
        ("a: format=csv metric=m", "missing from="),
        ("a: format=csv from=x metric=m metric=n", "'metric' stands twice"),
        ("a: format=csv from=x metric", "expected option=value, got 'metric'"),
        ("a: format=csv from='x metric=m", "No closing quotation"),
        ("a: format=csv from=x metric=m items=yes", "items: expected 'no' or nothing"),
        (
            "a: format=csv from=x metric=m better=lower",
            "better: expected higher, reciprocal or complement:BOUND",
        ),
        ("a: format=csv from=x metric=m better=complement:", "got 'complement:'"),
        ("a: format=cvs from=x metric=m", "format: expected one of predictions, lmms-eval"),
        ("a: format=csv from=x metric=m imgae=y", "no option 'imgae' \\(did you mean 'image'\\?\\)"),
    ],
)
def test_a_source_that_cannot_be_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        reader(parse_source(text))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_says_what_it_reads_and_what_its_options_mean(name):
    assert FORMATS[name].__doc__.startswith(f"Format `{name}`: ")
    assert all(text for text in FORMATS[name].OPTIONS.values())
