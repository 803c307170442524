import json

import pytest
import torch

from cotbal.estimate.items_json import read_items, write_items

ITEMS = {"mini": {"a": torch.tensor([0.1, 1 / 3])}, "a": {"a": torch.tensor([1.0, 0.0])}}


def test_what_is_written_is_read_back(tmp_path):
    path = write_items(tmp_path / "items.json", ITEMS, {"a": [0, 0]}, {"a": [0, 1]})
    found = read_items(path)
    assert found.items == {run: {task: row.tolist() for task, row in of.items()} for run, of in ITEMS.items()}
    assert found.clusters == {"a": [0, 0]}
    assert found.strata == {"a": [0, 1]}


def test_a_file_without_clusters_and_strata_has_none(tmp_path):
    found = read_items(write_items(tmp_path / "items.json", ITEMS))
    assert found.clusters == found.strata == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "schema_version"),
        ('{"schema_version": 2, "items": {}}', "schema_version"),
        ('{"schema_version": 1}', "items: expected an object"),
        ('{"schema_version": 1, "items": {"mini": []}}', "items\\['mini'\\]: expected an object of lists"),
        ('{"schema_version": 1, "items": {"mini": {"a": ["x"]}}}', "a list of numbers"),
        ('{"schema_version": 1, "items": {"mini": {"a": {}}}}', "a list of numbers"),
        ('{"schema_version": 1, "items": {"mini": {"a": [true]}}}', "a list of numbers"),
        ('{"schema_version": 1, "items": {"mini": {"a": [1, NaN]}}}', "a list of numbers, got nan"),
        (
            f'{{"schema_version": 1, "items": {{"mini": {{"a": [1{"0" * 400}]}}}}}}',
            "a list of numbers, got 1000",
        ),
        ('{"schema_version": 1, "items": {}, "clusters": {"a": [0, 0.5]}}', "whole numbers, got 0.5"),
        (
            '{"schema_version": 1, "items": {}, "strata": {"a": ["testA"]}}',
            "strata.*whole numbers, got 'testA'",
        ),
        (
            '{"schema_version": 1, "items": {"a": {"a": [1]}, "a": {}}}',
            "json: each key may stand once, .*: a$",
        ),
        ("{", "items.json"),
    ],
)
def test_another_file_is_named(tmp_path, content, words):
    path = tmp_path / "items.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_items(path)


def test_a_mark_in_front_is_passed_over(tmp_path):
    path = write_items(tmp_path / "items.json", ITEMS)
    marked = tmp_path / "marked.json"
    marked.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_items(marked) == read_items(path)


def test_it_is_plain_json(tmp_path):
    content = json.loads(write_items(tmp_path / "items.json", ITEMS).read_text())
    assert sorted(content) == ["items", "schema_version"]


def test_names_are_those_of_the_cells_of_a_score_table(tmp_path):
    items = {"mini": {"a ": [1, 0]}, "a ": {"a ": [1, 1]}}
    path = write_items(tmp_path / "items.json", items, {"a ": [0, 1]}, {"a ": [2, 2]})
    assert read_items(path) == ({"mini": {"a": [1, 0]}, "a": {"a": [1, 1]}}, {"a": [0, 1]}, {"a": [2, 2]})
