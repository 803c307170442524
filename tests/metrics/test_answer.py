import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics import exact_match
from cotbal.metrics.vqa_answers import rewritten


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("yes", "yes", 1.0),
        (" Yes.\n", "yes", 1.0),
        ("yes", "YES.", 1.0),
        ("yes..", "yes", 0.0),
        ("yes!", "yes", 0.0),
        ("the yes", "yes", 0.0),
        ("2", "two", 0.0),
        ("3.0", "3", 0.0),
        ("103", "100", 0.0),
        ("", "yes", 0.0),
    ],
)
def test_the_default_is_strict_after_strip_case_and_one_full_stop(prediction, reference, score):
    assert exact_match([prediction], [reference]) == [score]


@pytest.mark.parametrize(
    ("prediction", "option"), [(" yes", "strip"), ("Yes", "lower"), ("yes.", "full_stop")]
)
def test_each_rule_can_be_switched_off_alone(prediction, option):
    assert exact_match([prediction], ["yes"]) == [1.0]
    assert exact_match([prediction], ["yes"], **{option: False}) == [0.0]


def test_any_of_several_references_matches():
    assert exact_match(["b", "c"], [["a", "b"], ["a", "b"]]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("105", "100", 1.0),
        ("94", "100", 0.0),
        ("-1.04", "-1", 1.0),
        ("52%", "0.5", 1.0),
        ("0.96", "1", 1.0),
        # As ChartQA divides: 0.05 and a bit.
        ("59.22", "56.4", 0.0),
        ("0.001", "0", 0.0),
        ("0.0", "0", 0.0),
        ("5", "inf", 0.0),
        ("0", "0", 1.0),
        ("Red", "red", 1.0),
        ("red", "5", 0.0),
    ],
)
def test_the_relaxed_rule_allows_5_percent_of_a_number(prediction, reference, score):
    assert exact_match([prediction], [reference], rule="relaxed") == [score]


def test_the_tolerance_can_be_changed():
    assert exact_match(["109"], ["100"], rule="relaxed", tolerance=0.1) == [1.0]
    assert exact_match(["52%", "52.1%"], ["0.52", "0.52"], rule="relaxed", tolerance=0) == [1.0, 0.0]


def test_a_number_may_be_close_to_any_of_several():
    assert exact_match(["52", "60"], [["10", "50"]] * 2, rule="relaxed") == [1.0, 0.0]


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_soft_rule_is_that_of_ten_people(matches, score):
    people = ["yes"] * matches + ["no"] * (10 - matches)
    assert exact_match(["Yes"], [people], rule="soft") == pytest.approx([score])


def test_the_soft_rule_of_two_people():
    assert exact_match(["yes"], [["yes", "no"]], rule="soft") == pytest.approx([1 / 6])


@pytest.mark.parametrize(
    ("answer", "rewrite"),
    [
        ("The two dogs, dont they?", "2 dogs don't they"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("1,000 (one-thousand)", "1000 onethousand"),
        ("2.50", "2.50"),
        ("no. 7.", "no 7"),
        ("None", "0"),
        ("An apple a day", "apple day"),
        ("yall'll", "y'all'll"),
        ("its what's-his-name", "its what's his name"),
        ("line\nbreak\there", "line break here"),
        ("a", ""),
    ],
)
def test_answers_are_rewritten_as_vqas_server_does(answer, rewrite):
    assert rewritten(answer) == rewrite


def test_where_people_differ_the_soft_rule_rewrites_their_answers_and_ours():
    people = ["2"] * 3 + ["two"] * 4 + ["two dogs"] * 3
    assert exact_match(["Two"], [people], rule="soft") == [1.0]
    assert exact_match(["the two dogs."], [people], rule="soft") == pytest.approx([0.9])
    # The server looks at nothing but the text where all say the same.
    assert exact_match(["2", "two"], [["two"] * 10] * 2, rule="soft") == [0.0, 1.0]
    # Other rules rewrite nothing.
    assert exact_match(["Two"], [["2", "3"]]) == [0.0]


@given(st.lists(st.text(), min_size=1))
def test_every_answer_matches_itself(answers):
    assert exact_match(answers, answers) == [1.0] * len(answers)


@pytest.mark.parametrize(
    ("predictions", "references", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "at least one item"),
        (["a"], ["a", "b"], {}, ValueError, "got 2 for 1"),
        ("ab", ["a", "b"], {}, TypeError, "single string"),
        ([1], ["1"], {}, TypeError, r"predictions\[0\]: expected a string, got 1"),
        (["a"], [[]], {}, ValueError, "at least one reference"),
        (["a"], ["a"], {"rule": "loose"}, ValueError, "expected one of strict, relaxed, soft, got 'loose'"),
        (["a"], ["a"], {"rule": "soft"}, ValueError, "answers of several people"),
        (["a"], ["a"], {"rule": "relaxed", "tolerance": 1}, ValueError, "tolerance"),
        (["a"], ["a"], {"rule": "relaxed", "tolerance": -0.01}, ValueError, "tolerance"),
    ],
)
def test_bad_items_and_options_raise(predictions, references, options, error, message):
    with pytest.raises(error, match=message):
        exact_match(predictions, references, **options)


def test_characters_are_compared_as_they_stand():
    """As the official evaluations do; the documents say so."""
    assert exact_match(["caf\u00e9", "cafe\u0301"], ["cafe\u0301"] * 2) == [0.0, 1.0]
