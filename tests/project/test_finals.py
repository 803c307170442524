"""The plan of final models: which runs a method needs, under which key, in which mode."""

import json

import pytest

from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.finals import collected, final_plan, known_methods, left_to_do, same_models
from cotbal.project.methods import parse_methods
from cotbal.project.outline import run_keys
from cotbal.project.recipe import plan_of
from cotbal.project.rungs import rung_data, rung_plan
from cotbal.project.session import store_of
from tests.project.toy import content, write

SCORE = "score {model} {task} {scores} {data}"


@pytest.fixture
def made(tmp_path):
    def made(*methods, **changes):
        project = load_project(write(tmp_path, **changes))
        data = prepare(project)
        return project, data, final_plan(project, data, parse_methods(methods, project), store_of(project))

    return made


def given(folder):
    """A model of equal weights that exists."""
    (folder / "equal").mkdir()
    (folder / "equal" / "model.json").write_text("{}")
    return {"mode": "no-probes", "equal_model": "equal"}


def test_every_method_is_trained_under_every_seed_with_random_weights_of_its_own(made):
    _, _, wanted = made("EW", "RLW", "STL", seeds=[0, 4])
    trainings = [name for name in wanted.plan if not wanted.plan[name].needs]
    assert trainings == [
        *("seed 0/final EW", "seed 4/final EW", "seed 0/final RLW", "seed 4/final RLW"),
        *(f"seed {seed}/alone full {task}" for seed in (0, 4) for task in "abc"),
    ]
    rules = [wanted.plan[f"seed {seed}/final RLW"].settings["rule"]["options"] for seed in (0, 4)]
    assert rules == [{"seed": 0}, {"seed": 4}]
    assert wanted.plan["seed 4/final EW"].settings["weights"] == {"a": 1, "b": 1, "c": 1, "chat": 1.5}


def test_single_task_models_are_the_runs_of_the_precise_difficulty(made):
    project, data, wanted = made("STL")
    precise = project.model_copy(update={"precise": True})
    precise._folder = project.folder
    estimate = run_keys(plan_of(precise, data))
    keys = run_keys(wanted.plan)
    assert {f"alone full {task}" for task in "abc"} <= set(keys)
    # Without test files even their scores are.
    assert keys.items() <= estimate.items()


def test_a_test_file_changes_the_scoring_of_final_models_and_nothing_else(made, tmp_path):
    project, data, before = made("EW", evaluate={"command": SCORE})
    of_estimate = run_keys(plan_of(project, data))
    tasks = content(tmp_path)["tasks"]
    tasks["a"]["test"], tasks["b"]["test"] = "a.jsonl", {"one": "a.jsonl", "two": "b.jsonl"}
    project, data, after = made("EW", tasks=tasks, evaluate={"command": SCORE})
    assert run_keys(plan_of(project, data)) == of_estimate
    assert list(after.plan) == [
        "final EW",
        *("test final EW on a", "test final EW on b, one", "test final EW on b, two"),
        "evaluate final EW on c",
    ]
    both = run_keys(before.plan), run_keys(after.plan)
    for name in ("final EW", "evaluate final EW on c"):
        assert both[0][name] == both[1][name]
    test = after.plan["test final EW on b, two"]
    assert (test.context["items"], test.settings["task"]) == (96, "b")
    assert [column.source for column in collected(project, data, [], store_of(project)).columns] == [
        *("test", "test", "test", "validation")
    ]


def test_equal_weights_are_the_model_that_the_file_has(made, tmp_path):
    project, _, wanted = made("EW", **given(tmp_path))
    assert list(wanted.plan) == [f"evaluate equal on {task}" for task in "abc"]
    left = left_to_do(project, prepare(project), wanted, store_of(project))
    assert str(tmp_path / "equal") in left["runs"][0]["command"]
    assert left["totals"]["trainings"] == 0


def test_weights_wait_for_the_runs_of_the_precise_difficulty_and_are_counted(made, monkeypatch):
    # As if the estimate were finished, but for what `D=precise` adds.
    monkeypatch.setattr("cotbal.project.finals._check_estimate", lambda estimate, store: None)
    project, data, wanted = made("CoTBal D=precise", "EW")
    assert list(wanted.waiting) == ["final CoTBal D=precise"]
    assert {"alone mini a", "alone full c", "final EW"} <= set(wanted.plan)
    left = left_to_do(project, data, wanted, store_of(project))
    late = {run["name"]: run["command"] for run in left["runs"] if run["state"] == "waits"}
    assert set(late) == {
        "final CoTBal D=precise",
        *(f"evaluate final CoTBal D=precise on {task}" for task in "abc"),
    }
    assert set(late.values()) == {None}
    # The estimate of 275, six runs on a task alone, two final runs.
    assert left["totals"]["samples"] == 275 + 25 + 200 + 2 * 210


def test_rows_that_are_the_same_model_are_told(made):
    project, *_ = made()
    methods = parse_methods(["CoTBal T=0.5", "CoTBal", "CoTBal T=1", "CoTBal D=real"], project)
    assert same_models(methods) == {"CoTBal": "CoTBal T=0.5", "CoTBal D=real": "CoTBal T=0.5"}


def test_methods_of_an_earlier_start_are_known_unless_the_file_has_changed_its_mind(made, tmp_path):
    project, *_ = made()
    assert known_methods(project) == []
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    (folder / "finals.json").write_text(json.dumps({"methods": {"EW": {}, "one2all": {}}}))
    assert [method.name for method in known_methods(project)] == ["EW", "one2all"]
    without, *_ = made(**given(tmp_path))
    assert [method.name for method in known_methods(without)] == ["EW"]
    (folder / "finals.json").write_text("cut")
    assert known_methods(project) == []


def test_rungs_have_nested_shares_above_the_mini_subset_each_scored_on_its_task(made):
    project, *_ = made(mini_ratio="1/32")
    plan = rung_plan(project, rung_data(project))
    trainings = [name for name in plan if not plan[name].needs]
    shares = ("eighth probe", "quarter probe", "half probe", "probe")
    assert trainings == ["mini", *(f"{share} {task}" for task in "abc" for share in shares)]
    assert plan["eighth probe b"].context["samples"] == 2 + 12 + 1
    assert [name for name in plan if " on " in name and "eighth" in name] == [
        f"evaluate eighth probe {task} on {task}" for task in "abc"
    ]
    # As the estimate has them, so that both ends are there already.
    estimate = run_keys(plan_of(project, prepare(project)))
    keys = run_keys(plan)
    assert all(keys[name] == estimate[name] for name in ("mini", "probe a", "evaluate probe b on b"))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"test": {}}, "tasks.a.test: expected a file, or files by names without '/'"),
        ({"test": {"x/y": "a.json"}}, "tasks.a.test: expected a file"),
        ({"test": "a.json"}, r"tasks.a: its test files need \{data\} in the evaluation command"),
    ],
)
def test_mistakes_about_test_files_are_told(made, tmp_path, task, message):
    tasks = content(tmp_path)["tasks"]
    tasks["a"] |= task
    with pytest.raises(ValueError, match=message):
        made(tasks=tasks)
