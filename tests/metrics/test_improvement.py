import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics import delta_e, delta_i, improvement

POSITIVE = st.floats(0.01, 100)
IMPROVEMENTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(-0.9, 5), min_size=1)


def test_a_task_is_the_mean_of_its_relative_changes():
    result = improvement({"a": {"x": 3.0, "y": 1.0}}, {"a": {"x": 2.0, "y": 4.0}})
    assert result == pytest.approx({"a": (0.5 - 0.75) / 2})


def test_the_sign_flips_only_where_lower_is_better():
    evaluated, baseline = {"a": {"x": 3.0, "loss": 1.0}}, {"a": {"x": 2.0, "loss": 4.0}}
    assert improvement(evaluated, baseline, lower_is_better=["loss"]) == pytest.approx(
        {"a": (0.5 + 0.75) / 2}
    )
    assert improvement(evaluated, baseline, lower_is_better="loss") == pytest.approx({"a": (0.5 + 0.75) / 2})


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), POSITIVE, min_size=1), min_size=1
    )
)
def test_the_baseline_does_not_improve_on_itself(scores):
    assert set(improvement(scores, scores).values()) == {0.0}


@given(IMPROVEMENTS)
def test_gains_less_losses_are_the_whole(improvements):
    mirrored = {task: -value for task, value in improvements.items()}
    assert delta_e(mirrored) - delta_e(improvements) == pytest.approx(delta_i(improvements), abs=1e-9)
    assert delta_e(improvements) >= 0


def test_gains_do_not_make_up_for_losses_in_delta_e():
    improvements = {"a": 1.0, "b": -0.1}
    assert delta_i(improvements) == pytest.approx(45.0)
    assert delta_e(improvements) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("evaluated", "baseline", "message"),
    [
        ({"a": {"x": 1.0}}, {}, "at least one"),
        ({"a": {"x": 1.0}}, {"b": {"x": 1.0}}, "same tasks as the baseline, missing: b, extra: a"),
        ({"a": {"x": 1.0}}, {"a": {"y": 1.0}}, "same metrics of task 'a'"),
        ({"a": {}}, {"a": {}}, "metrics of task 'a', got none"),
        ({"a": {"x": math.nan}}, {"a": {"x": 1.0}}, "evaluated: a, x: expected a finite number, got nan"),
        ({"a": {"x": 1.0}}, {"a": {"x": math.inf}}, "baseline: a, x: expected a finite number"),
        ({"a": {"x": 1.0}}, {"a": {"x": 0.0}}, "expected a value > 0"),
        ({"a": {"x": 1.0}}, {"a": {"x": -1.0}}, "expected a value > 0"),
    ],
)
def test_bad_scores_raise(evaluated, baseline, message):
    with pytest.raises(ValueError, match=message):
        improvement(evaluated, baseline)


def test_an_unknown_lower_is_better_raises():
    with pytest.raises(ValueError, match="no task has the metrics los"):
        improvement({"a": {"loss": 1.0}}, {"a": {"loss": 1.0}}, lower_is_better=["los"])


@pytest.mark.parametrize("function", [delta_i, delta_e])
@pytest.mark.parametrize("improvements", [{}, {"a": math.nan}])
def test_nothing_or_nan_has_no_mean(function, improvements):
    with pytest.raises(ValueError, match="improvements"):
        function(improvements)
