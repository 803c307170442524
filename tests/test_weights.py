import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotbal.weights import TaskWeights

FULL = TaskWeights(
    {"a": 0.25, "b": 1.75, "chat": 1.0},
    rule="cotbal",
    temperature=0.5,
    alpha=0.25,
    fixed={"chat": 1.0},
    provenance={"unidentified": ["a"], "note": "é"},
)


def test_it_is_a_mapping_from_task_to_float():
    assert dict(FULL) == FULL.weights == {"a": 0.25, "b": 1.75, "chat": 1.0}
    assert FULL["b"] == 1.75
    assert len(FULL) == 3
    assert "c" not in FULL
    with pytest.raises(KeyError, match="known tasks: a, b, chat"):
        FULL["c"]


def test_it_is_frozen_and_keeps_its_own_copy():
    given = {"a": 1, "b": 2}
    weights = TaskWeights(given)
    given["a"] = 5
    provenance = {"note": "first"}
    noted = TaskWeights(given, fixed={"b": 2}, provenance=provenance)
    provenance["note"] = "second"
    assert noted.provenance == {"note": "first"}
    assert isinstance(noted.fixed["b"], float)
    assert noted != TaskWeights(given)
    assert weights["a"] == 1.0
    assert isinstance(weights["a"], float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        weights.rule = "other"


def test_the_tensor_follows_the_given_order():
    tensor = FULL.to_tensor(["chat", "b", "a"])
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [1.0, 1.75, 0.25]


def test_a_task_without_weight_raises():
    with pytest.raises(ValueError, match=r"no weight for task 'chatt' \(did you mean 'chat'\?\)"):
        FULL.to_tensor(["a", "chatt"])


def test_a_repeated_task_raises():
    with pytest.raises(ValueError, match="repeated: a"):
        FULL.to_tensor(["a", "a"])


@pytest.mark.parametrize(("weight", "told"), [(1e-60, "1e-60 is 0 in float32"), (1e39, "inf in float32")])
def test_a_weight_that_float32_does_not_have_raises(weight, told):
    with pytest.raises(ValueError, match=f"task 'a': .*{told}"):
        TaskWeights({"a": weight, "b": 0.0}).to_tensor(["b", "a"])


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, ValueError, "at least one task"),
        ({"a": -0.1}, ValueError, r"weights\['a'\]: expected a finite weight >= 0, got -0.1"),
        ({"a": math.nan}, ValueError, "got nan"),
        ({"a": math.inf}, ValueError, "got inf"),
        ({"a": "1"}, TypeError, "expected a number, got '1'"),
        ({"a": True}, TypeError, "expected a number, got True"),
        ({"a": None}, TypeError, "expected a number, got None"),
        ({1: 1.0}, TypeError, "task names as strings"),
        ([1.0], TypeError, "expected a mapping"),
    ],
)
def test_bad_weights_raise(weights, error, message):
    with pytest.raises(error, match=message):
        TaskWeights(weights)


def test_a_fixed_task_must_have_its_fixed_weight():
    with pytest.raises(ValueError, match=r"'chat' is fixed at 1\.0, but its weight is 2\.0"):
        TaskWeights({"chat": 2.0}, fixed={"chat": 1.0})
    with pytest.raises(ValueError, match="its weight is None"):
        TaskWeights({"a": 2.0}, fixed={"chat": 1.0})


def test_a_file_tells_everything(tmp_path):
    path = FULL.save(tmp_path / "weights.json")
    assert TaskWeights.load(path) == FULL
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    assert set(content) == {
        "schema_version", "weights", "rule", "temperature", "alpha", "fixed", "provenance",
    }  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1).filter(str.strip), st.floats(0, 1e300), min_size=1, max_size=6))
def test_saving_and_loading_keeps_every_bit(tmp_path, weights):
    assert TaskWeights.load(TaskWeights(weights).save(tmp_path / "w.json")).weights == weights


def test_a_bare_mapping_loads(tmp_path):
    path = tmp_path / "bare.json"
    path.write_text('{"a": 1, "weights": 2.5}')
    assert dict(TaskWeights.load(path)) == {"a": 1.0, "weights": 2.5}


def test_a_file_of_a_windows_editor_loads(tmp_path):
    path = tmp_path / "bare.json"
    path.write_text('{"é": 1}', encoding="utf-8-sig")
    assert dict(TaskWeights.load(path)) == {"é": 1.0}
    path.write_text('{"é": 1}', encoding="utf-16")
    with pytest.raises(ValueError, match=r"bare.json: expected \{task: weight\} as JSON in UTF-8, got"):
        TaskWeights.load(path)


def test_numbers_of_numpy_are_saved(tmp_path):
    """A sweep of temperatures has them, and a file comes after the estimate."""
    weights = TaskWeights({"a": np.float32(1)}, temperature=np.float32(0.5), alpha=np.int64(1))
    assert TaskWeights.load(weights.save(tmp_path / "weights.json")) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("", r"bad.json: expected \{task: weight\} as JSON in UTF-8, got Expecting value"),
        ('{"schema_version": 1, "weights": {"a": 1}, "alpha": "x"}', "alpha: expected a number, got 'x'"),
        ("[1, 2]", "tasks: expected the names of the list's 2 weights in its order, got none"),
        ("[]", "weights: expected at least one task name, got none"),
        ("3", "expected a JSON object, got int"),
        ("{}", "at least one task"),
        ('{"a": NaN}', "got nan"),
        (f'{{"a": 1{"0" * 400}}}', r"weights\['a'\]: expected a finite number, got 1000"),
        ('{"a": 1, "a": 2}', "repeated: a"),
        ('{"schema_version": 2, "weights": {"a": 1}}', "schema_version: expected 1, got 2"),
        ('{"weights": {"a": 1}}', r'schema_version: expected 1 .*, got none; write \{"schema_ver'),
        ('{"schema_version": 1}', "expected a key 'weights'"),
        ('{"schema_version": 1, "weights": {"a": 1}, "temprature": 1}', "unknown keys: temprature"),
        ('{"schema_version": 1, "rule": "TLA", "options": {}, "tasks": ["a"]}', "got the rule 'TLA'"),
        ('{"schema_version": 1, "weights": {"a": 1}, "provenance": null}', "provenance"),
    ],
)
def test_a_bad_file_raises_with_its_name(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        TaskWeights.load(path)
    assert str(path) in str(error.value)


def test_a_list_takes_the_names_in_its_order(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[0.5, 2, 1.5]")
    expected = TaskWeights({"c": 0.5, "a": 2.0, "b": 1.5})
    assert TaskWeights.load(path, ["c", "a", "b"]) == expected == TaskWeights.of_list((0.5, 2, 1.5), [*"cab"])
    # A file with names needs none, and keeps its own.
    assert TaskWeights.load(FULL.save(tmp_path / "full.json"), ["c", "a"]) == FULL


@pytest.mark.parametrize(
    ("weights", "tasks", "error", "message"),
    [
        ([1.0, 2.0], None, ValueError, "the names of the list's 2 weights in its order, got none"),
        ([1.0, 2.0], ["a"], ValueError, "the list's 2 weights in its order, got a$"),
        ([1.0], ["a", "b"], ValueError, "the list's 1 weights in its order, got a, b"),
        ([1.0, -2.0], ["a", "b"], ValueError, r"weights\['b'\]: expected a finite weight >= 0, got -2.0"),
        ([1.0, "2"], ["a", "b"], TypeError, "expected a number, got '2'"),
        ([1.0, 2.0], ["a", "a"], ValueError, "repeated: a"),
    ],
)
def test_a_list_that_cannot_be_right(weights, tasks, error, message):
    with pytest.raises(error, match=message):
        TaskWeights.of_list(weights, tasks)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = FULL.save(tmp_path / "weights.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        TaskWeights({"a": 1.0}, provenance={"score": math.nan}).save(path)
    assert path.read_bytes() == before
