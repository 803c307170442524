import csv
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotbal.estimate.rules import (
    RULES,
    estimate_weights,
    seed_spread,
    weights_by_rule,
    weights_from_signals,
)
from cotbal.estimate.scores import Scores
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all
from cotbal.weights import TaskWeights
from tests.estimate.tables import example, permuted, score_tables

SOFTMAX_RULES = ("one2all", "all2one", "difficulty")
SIGNALS = st.integers(2, 6).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-2, 2), min_size=n, max_size=n) for _ in range(3)])
)
TEMPERATURE = st.floats(0.05, 20)


def names(signals):
    return [f"task {place}" for place in range(len(signals[0]))]


def weigh(signals, **options):
    return weights_from_signals(*signals, tasks=names(signals), **options)


def published():
    with open(Path(__file__).parent / "signals_7b.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = [
        [float(row[name]) for row in rows] for name in ("C_one2all", "C_all2one", "V_mini_over_V_full")
    ]
    return [row["task"] for row in rows], columns[0], columns[1], [1 - ratio for ratio in columns[2]]


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.5, [0.8585, 1.0557, 0.8107, 0.8151, 1.0020, 0.8177, 1.6403]),
        (1.0, [0.9374, 1.0434, 0.9016, 0.9124, 1.0168, 0.9064, 1.2821]),
    ],
)
def test_the_published_7b_weights_come_out_to_four_decimals(temperature, expected):
    tasks, *signals = published()
    weights = weights_from_signals(*signals, tasks=tasks, temperature=temperature, fixed={"ShareGPT": 1.0})
    assert [round(weights[task], 4) for task in tasks] == expected
    assert weights["ShareGPT"] == 1.0


@given(SIGNALS, st.sampled_from(RULES), TEMPERATURE, st.floats(0, 1))
def test_the_estimated_weights_sum_to_their_number(signals, rule, temperature, alpha):
    weights = weigh(signals, rule=rule, temperature=temperature, alpha=alpha, fixed={"chat": 3.0})
    assert sum(weights.values()) - 3.0 == pytest.approx(len(signals[0]))
    assert min(weights.values()) >= 0


@given(SIGNALS, st.sampled_from(RULES), st.randoms())
def test_relabelling_the_tasks_relabels_the_weights(signals, rule, rng):
    order = rng.sample(range(len(signals[0])), len(signals[0]))
    tasks = names(signals)
    again = weights_from_signals(
        *[[signal[place] for place in order] for signal in signals],
        tasks=[tasks[place] for place in order],
        rule=rule,
    )
    assert dict(again) == pytest.approx(dict(weigh(signals, rule=rule)))
    assert list(again) == [tasks[place] for place in order]


@given(SIGNALS, st.sampled_from(RULES), st.floats(-5, 5))
def test_a_constant_added_to_a_signal_changes_nothing(signals, rule, shift):
    shifted = [[value + shift for value in signal] for signal in signals]
    assert dict(weigh(shifted, rule=rule)) == pytest.approx(dict(weigh(signals, rule=rule)), abs=1e-9)


@given(SIGNALS, TEMPERATURE)
def test_each_softmax_has_its_signal_and_sign(signals, temperature):
    for rule, signal, sign in zip(SOFTMAX_RULES, signals, (1, -1, 1), strict=True):
        weights = list(weigh(signals, rule=rule, temperature=temperature).values())
        powers = [math.exp(sign * (value - signal[0]) / temperature) for value in signal]
        assert weights == pytest.approx([len(powers) * power / sum(powers) for power in powers])


@given(SIGNALS, st.floats(0, 1))
def test_the_mixtures_are_those_of_equations_8_and_11(signals, alpha):
    by_rule = {rule: dict(weigh(signals, rule=rule, alpha=alpha)) for rule in RULES}
    for task in names(signals):
        contributed = (by_rule["one2all"][task] + by_rule["all2one"][task]) / 2
        assert by_rule["contribution"][task] == pytest.approx(contributed)
        mixed = alpha * contributed + (1 - alpha) * by_rule["difficulty"][task]
        assert by_rule["cotbal"][task] == pytest.approx(mixed)
        assert by_rule["equal"][task] == 1.0


@given(SIGNALS)
def test_a_very_high_temperature_gives_equal_weights(signals):
    assert list(weigh(signals, temperature=1e9).values()) == pytest.approx([1.0] * len(signals[0]))


@given(score_tables(), st.sampled_from(RULES))
def test_estimating_is_weighing_the_signals_of_the_scores(scores, rule):
    C = contribution(scores)
    expected = weights_from_signals(
        one2all(C), all2one(C), difficulty(scores), tasks=scores.tasks, rule=rule, fixed={"chat": 0.5}
    )
    assert dict(estimate_weights(scores, rule=rule, fixed={"chat": 0.5})) == dict(expected)


def test_the_weights_by_every_rule_are_those_of_each_rule():
    table = example(single_mini=[0.5, 1, 3], single_full=[2, 4, 5])
    for options in ({"on_unidentified": "drop"}, {"on_unidentified": "drop", "precise": True, "alpha": 0.25}):
        found, refused = weights_by_rule(table, **options)
        assert list(found) == list(RULES)
        assert not refused
        for rule, weights in found.items():
            assert weights == estimate_weights(table, rule=rule, **options)


@pytest.mark.parametrize("given", ["scores.csv", {"a": 1.0}, [torch.ones(3)]])
def test_what_is_no_table(given):
    with pytest.raises(TypeError, match=r"scores: expected a table or several, got (str|Tensor); .*from_csv"):
        estimate_weights(given)


def test_the_spread_over_seeds_leaves_out_a_seed_that_allows_no_weights():
    options = {"rule": "difficulty", "temperature": 0.25}
    tables = [Scores(["a", "b"], [mini, 0.25], [[0.75, 0.5], [0.5, 0.5]]) for mini in (0.25, 0.0, 0.5, 0.625)]
    weights = [estimate_weights(tables[seed], **options)["a"] for seed in (0, 2, 3)]
    assert seed_spread(tables, **options)["a"] == pytest.approx(torch.tensor(weights).std().item())
    assert seed_spread(tables[:2], **options) == {}


@given(score_tables(), st.randoms())
def test_relabelling_the_scores_relabels_the_weights(scores, rng):
    order = rng.sample(range(len(scores.tasks)), len(scores.tasks))
    assert dict(estimate_weights(permuted(scores, order))) == pytest.approx(dict(estimate_weights(scores)))


def test_the_options_reach_the_rule():
    table = example(single_mini=[0.5, 1, 3], single_full=[2, 4, 5])
    options = {"temperature": 0.25, "alpha": 0.75, "on_unidentified": "drop"}
    precise = estimate_weights(table, precise=True, **options)
    C = contribution(table, on_unidentified="drop")
    expected = weights_from_signals(
        one2all(C), all2one(C), [0.75, 0.75, 0.4], tasks=["a", "b", "c"], temperature=0.25, alpha=0.75
    )
    assert dict(precise) == pytest.approx(dict(expected))
    assert dict(precise) != pytest.approx(dict(estimate_weights(table, **options)))


def test_the_provenance_tells_where_the_weights_came_from(tmp_path):
    weights = estimate_weights(example(), on_unidentified="drop", fixed={"chat": 1.0})
    assert (weights.rule, weights.temperature, weights.alpha) == ("cotbal", 0.5, 0.5)
    assert weights.fixed == {"chat": 1.0}
    provenance = weights.provenance
    assert provenance["tasks"] == ["a", "b", "c"]
    assert provenance["unidentified"] == ["b"]
    assert provenance["on_unidentified"] == "drop"
    assert provenance["precise"] is False
    assert provenance["one2all"] == [0.25, 0.0, -0.5]
    assert provenance["scores"]["mini"] == [0.25, 0.5, 0.125]
    assert TaskWeights.load(weights.save(tmp_path / "weights.json")) == weights


def test_the_provenance_names_the_transforms():
    table = Scores(["a", "b"], [1.0, 0.25], [[0.5, 0.25], [1.0, 0.5]], transforms={"a": "reciprocal"})
    assert estimate_weights(table).provenance["transforms"] == {"a": "reciprocal"}


def test_a_rule_asks_only_for_the_signals_it_uses():
    zero = Scores(["a", "b"], mini=[0.0, 0.5], probes=[[0.5, 0.5], [0.0, 0.75]])
    assert estimate_weights(zero, rule="contribution").alpha is None
    with pytest.raises(ValueError, match="task 'a': the difficulty"):
        estimate_weights(zero)
    assert estimate_weights(example(), rule="difficulty").provenance["unidentified"] == ["b"]
    assert estimate_weights(example(), rule="equal").temperature is None
    with pytest.raises(ValueError, match="task 'b'"):
        estimate_weights(example(), rule="one2all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "rule: expected one of cotbal, .*, got 'best'"),
        ({"temperature": 0}, "temperature: expected a finite number > 0, got 0"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"alpha": 1.5}, "alpha: expected a number in 0..1, got 1.5"),
        ({"alpha": math.nan}, "alpha"),
        ({"fixed": {"a": 1.0}}, "fixed: a is also an estimated task"),
        ({"fixed": {"chat": -1.0}}, r"fixed\['chat'\]: expected a finite weight >= 0, got -1.0"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        weights_from_signals([0.1, 0.2], [0.1, 0.2], [0.1, 0.2], tasks=["a", "b"], **options)


@pytest.mark.parametrize(("one", "temperature"), [([0.1, -1000.0], 0.5), ([0.1, 0.2], 1e-4)])
def test_a_weight_that_float32_makes_0_raises(one, temperature):
    with pytest.raises(ValueError, match=r"every task a weight, got .* '[ab]' .*, 0 in float32"):
        weights_from_signals(one, None, None, tasks=["a", "b"], rule="one2all", temperature=temperature)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ([0.1], r"one2all: expected one value per task, shape \(2,\), got \(1,\)"),
        ([0.1, math.nan], "one2all: task 'b': expected a finite number, got nan"),
        (None, "one2all: the rule needs this signal, got None"),
    ],
)
def test_bad_signals_raise(one, message):
    with pytest.raises(ValueError, match=message):
        weights_from_signals(one, torch.zeros(2), torch.zeros(2), tasks=["a", "b"])


@pytest.mark.parametrize("rule", RULES)
def test_one_task_cannot_be_balanced(rule):
    with pytest.raises(ValueError, match="at least 2 estimated tasks to balance, got 1: a"):
        weights_from_signals([0.1], [0.1], [0.1], tasks=["a"], rule=rule, fixed={"chat": 1.0})


def test_scores_of_one_task_cannot_be_balanced():
    with pytest.raises(ValueError, match="at least 2"):
        estimate_weights(Scores(["a"], [0.5], [[0.75]]))
