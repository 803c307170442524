"""A weighting from whatever states it, and the names that go with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchjd.scalarization import UW

from cotbal.balancing import (
    DWA,
    RLW,
    TLA,
    IGBv1,
    StaticWeights,
    Weighting,
    as_weighting,
    save_rule,
    stated_tasks,
)
from cotbal.weights import TaskWeights

STATED = {"b": 0.5, "a": 2.0}
FULL = TaskWeights(STATED, rule="cotbal", temperature=0.5, alpha=0.5, provenance={"run": 7})


def bound(weights: Any, tasks: Any = None) -> list[float]:
    return as_weighting(weights, tasks).bind(["a", "b"]).weights(torch.ones(2)).tolist()


def test_everything_that_states_the_same_weights_gives_the_same_rule(tmp_path: Path) -> None:
    bare, listed = tmp_path / "bare.json", tmp_path / "list.json"
    bare.write_text(json.dumps(STATED))
    listed.write_text(json.dumps([*STATED.values()]))
    for weights in (STATED, FULL, FULL.save(tmp_path / "full.json"), bare, str(bare), StaticWeights(STATED)):
        assert bound(weights) == [2.0, 0.5]
    for weights in ([0.5, 2.0], (0.5, 2), listed, str(listed)):
        assert bound(weights, ["b", "a"]) == [2.0, 0.5]


def test_a_rule_is_taken_as_it_is() -> None:
    rule = DWA(window=2)
    assert as_weighting(rule, ["a", "b"]) is rule


def test_where_the_weights_came_from_is_kept(tmp_path: Path) -> None:
    for weights in (FULL, FULL.save(tmp_path / "weights.json")):
        rule = as_weighting(weights)
        assert isinstance(rule, StaticWeights)
        assert rule.given == FULL
        assert rule.given.provenance == {"run": 7}


@pytest.mark.parametrize("weights", [None, 1.0, {0.5, 2.0}, torch.ones(2)])
def test_what_states_no_weights_is_a_type_error(weights: Any) -> None:
    with pytest.raises(TypeError, match="weights: expected TaskWeights, a mapping, a list, a path or a Weig"):
        as_weighting(weights, ["a", "b"])


@pytest.mark.parametrize(
    ("weights", "remedy"),
    [
        (torch.ones(2), "got Tensor; pass a mapping from task"),
        (DWA, r"got the class DWA; pass DWA\(\)$"),
        (UW(2), r"got the module UW; pass cotbal\.balancing\.TorchJDWeighting\(UW\(\.\.\.\)\)$"),
    ],
)
def test_what_states_no_weights_is_told_with_its_remedy(weights: Any, remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        as_weighting(weights, ["a", "b"])


def test_a_file_that_is_not_there_is_told_with_what_weights_may_be() -> None:
    told = r"No such file .*`cotbal weights` wrote, a mapping .* TaskWeights or a rule, as .*DWA\(\): 'DWA'"
    with pytest.raises(FileNotFoundError, match=told) as error:
        as_weighting("DWA")
    assert error.value.filename == "DWA"


@pytest.mark.parametrize("text", ['{"a": 0.5, "b": 2.0}', '{"schema_version": 1, "rule": "TLA"}'])
def test_a_file_may_begin_with_a_byte_order_mark(text: str, tmp_path: Path) -> None:
    """Of weights and of a rule, as a trainer takes either."""
    path = tmp_path / "weights.json"
    path.write_text(text, encoding="utf-8-sig")
    assert isinstance(as_weighting(path), TLA if "TLA" in text else StaticWeights)


def test_a_score_table_is_sent_through_the_verb_first(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("run,a,b\nmini,0.5,0.4\n")
    with pytest.raises(ValueError, match=r"scores\.csv: expected JSON.*score table goes through `cotbal wei"):
        as_weighting(path, ["a", "b"])


def test_a_list_needs_its_names(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[0.5, 2.0]")
    with pytest.raises(ValueError, match=r"tasks: expected the names of the list's 2 weights .* got none"):
        as_weighting([0.5, 2.0])
    with pytest.raises(ValueError, match=r"list\.json: tasks: expected the names of the list's 2 weights"):
        as_weighting(path)


def test_the_tasks_are_those_given_else_those_of_constant_weights() -> None:
    assert stated_tasks(iter(["a", "b"]), StaticWeights(STATED)) == ("a", "b")
    assert stated_tasks(None, StaticWeights(STATED)) == ("b", "a")
    assert stated_tasks(None, StaticWeights()) is None
    assert stated_tasks(None, DWA(window=2)) is None
    assert stated_tasks(["a"], DWA(window=2)) == ("a",)


@pytest.mark.parametrize(
    "rule", [DWA(window=3, fixed={"a": 1.5}), RLW(seed=7), IGBv1(base_start=0, base_stop=1), TLA()]
)
def test_a_rule_goes_through_a_file(rule: Weighting, tmp_path: Path) -> None:
    found = as_weighting(save_rule(rule, tmp_path / "rule.json", ["b", "a"]))
    assert type(found) is type(rule)
    assert (found.options, found.fixed) == (rule.options, rule.fixed)
    counts = torch.tensor([3, 1])
    for each in (found, rule):
        each.bind(["b", "a"]).update(torch.tensor([2.0, 3.0]), counts)
    assert found.weights(counts).tolist() == rule.weights(counts).tolist()


def test_constant_weights_are_no_rule_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a rule, got constant weights; write them by TaskWeights"):
        save_rule(StaticWeights(STATED), tmp_path / "rule.json")
    assert not (tmp_path / "rule.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rule": "PCGrad"}, r"rule.json: weighting: expected one of static, tla, .* got 'pcgrad'"),
        ({"rule": "DWA", "options": {"windw": 3}}, r"rule.json: dwa: .* 'windw'; .*: window, temperature, f"),
        ({"rule": "TLA", "fixed": {"a": 1.0}}, r"rule.json: tla: .* argument 'fixed'; its options: none"),
        ({"rule": "DWA", "options": [3]}, r"rule.json: options: expected an object, got list"),
        ({"rule": "DWA", "window": 3}, r"rule.json: unknown keys: window; expected"),
        ({"rule": "DWA", "schema_version": 2}, r"rule.json: schema_version: expected 1, got 2"),
    ],
)
def test_a_rule_that_cannot_be_made_is_told_with_its_file(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "rule.json"
    path.write_text(json.dumps({"schema_version": 1, **content}))
    with pytest.raises(ValueError, match=message):
        as_weighting(path)


def test_a_rule_by_hand_without_its_schema_version_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    path.write_text('{"rule": "dwa", "options": {"window": 25}, "fixed": {"a": 1.0}}')
    told = r'rule.json: schema_version: expected .*, got none; write \{"schema_version": 1, "rule": "dwa", '
    with pytest.raises(ValueError, match=told):
        as_weighting(path)


@pytest.mark.parametrize("document", ["README.md", "finetune/options.py"])
def test_the_rule_that_is_documented_is_one(document: str, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "integrations" / "huggingface"
    text = (folder / document).read_text(encoding="utf-8")
    path = tmp_path / "rule.json"
    path.write_text(re.findall(r'\{"schema_version": .*?\}\}', text)[0])
    rule = as_weighting(path)
    assert (type(rule), rule.options["window"], [*rule.fixed.values()]) == (DWA, 25, [1.0])


def test_a_task_may_be_called_rule(tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    path.write_text('{"rule": 0.5, "b": 2.0}')
    assert dict(as_weighting(path).bind(["rule", "b"]).fixed) == {"rule": 0.5, "b": 2.0}
