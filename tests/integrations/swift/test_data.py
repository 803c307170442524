"""What a run of an estimate trains on: LLaVA's records, each with its task, as ms-swift reads them."""

import json
from typing import Any

import pytest

from cotbal.balancing import DWA, save_rule
from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from tests.integrations.swift.cases import Case, run_cases
from tests.integrations.swift.records import llava_records
from tests.integrations.swift.test_step_loss import check
from tests.integrations.swift.world import WEIGHTS, World

pytestmark = pytest.mark.timeout(900)
_TOWER = "--tuner_type full --freeze_vit false --freeze_aligner false --strict true"
_TASK = '--columns {{"task":"channel"}}'
_SECOND = {
    "pictures": ("image and images", "images"),
    "messages": ("conversations and messages", "messages"),
    "task": ("channel and task", "channel"),
}
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(world: World, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("data")
    records = [
        {"task": task, **record} for task in WEIGHTS for record in llava_records(world, task, "vision")
    ]
    other = json.loads(json.dumps(records))
    other[0]["images"] = [other[0].pop("image")]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    written = {
        "array": records,
        # The ids of two sources are often of two kinds.
        "ids": [record | {"id": f"{record['id']}"} if n % 2 else record for n, record in enumerate(records)],
        "pictures": other,
        "messages": [*records, {"task": "vqa", "messages": messages}],
        "task": [record | {"channel": "mine"} for record in records],
        "missing": [records[0] | {"image": "nowhere.png"}, *records[1:]],
    }
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    more, rule = folder / "more.json", folder / "rule.json"
    more.write_text(json.dumps({"absent": 3.0, **WEIGHTS}))
    save_rule(DWA(), rule, WEIGHTS)
    plugins = {}
    for path in (more, rule):
        plugins[path.stem] = folder / f"{path.stem}.py"
        plugins[path.stem].write_text(
            f"from cotbal.integrations.swift import balance\nbalance({str(path)!r})\n"
        )

    def case(name: str, data: str, words: str = "", **kwargs: Any) -> Case:
        return Case(name, f"{_TOWER} {_TASK} {words}", "vision", data=(folder / f"{data}.json",), **kwargs)

    cases = [case(name, name) for name in written]
    cases += [case(name, "array", plugin=plugin) for name, plugin in plugins.items()]
    cases += [case(f"seed {seed}", "array", f"--seed {seed} --data_seed {seed}") for seed in (42, 1)]
    cases.append(case("seed 1 alone", "array", "--seed 1"))
    return run_cases(world, folder / "runs", cases)


@pytest.mark.parametrize("name", ["array", "ids", "more"])
def test_each_record_has_the_weight_of_its_task(results: Results, name: str) -> None:
    """Also where the weights name a task that this run has no data of."""
    check(results[name])
    assert len(results[name][0]["prompts"]) == 24


def test_a_rule_in_the_place_of_weights(results: Results) -> None:
    assert not results["rule"][0]["error"], results["rule"][0]["error"]
    assert results["rule"][0]["tasks"] == ("caption", "chat", "vqa")


@pytest.mark.parametrize("what", _SECOND)
def test_a_second_key_of_one_meaning_is_refused(results: Results, what: str) -> None:
    """ms-swift as it is loses the pictures, or the records, of one of them."""
    keys, spare = _SECOND[what]
    error = results[what][0]["error"]
    assert f"ValueError: --dataset: expected the {what} of all records under one key, got {keys}" in error
    assert f"""--columns '{{"{spare}": "unused"}}'""" in error


def test_a_picture_that_is_not_there_is_an_error(results: Results) -> None:
    """By --strict; ms-swift trains on another record in its place otherwise."""
    assert "nowhere.png" in results["missing"][0]["error"]


def test_the_order_is_that_of_the_data_seed(results: Results) -> None:
    order = {name: results[name][0]["prompts"] for name in ("array", "seed 42", "seed 1", "seed 1 alone")}
    assert order["array"] == order["seed 42"] == order["seed 1 alone"]
    assert order["seed 1"] != order["array"]
    assert sorted(order["seed 1"]) == sorted(order["array"])
