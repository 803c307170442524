"""The plan of final models: which runs a method needs, under which key, in which mode."""

import hashlib
import json

import pytest

from cotbal.estimate import Scores, estimate_weights
from cotbal.project.config import load_project
from cotbal.project.data import SECOND, fingerprint, prepare
from cotbal.project.final_plan import final_plan, left_to_do
from cotbal.project.finals import collected, known_methods, same_models
from cotbal.project.methods import parse_methods
from cotbal.project.outline import run_keys
from cotbal.project.recipe import plan_of
from cotbal.project.rungs import measured, rung_data, rung_plan, shares
from cotbal.project.work import store_of
from cotbal.runs.store import Record
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


def finish(project, data, score):
    """As if the estimate were finished: `score(seed, run, task)` of every evaluation."""
    plan, store = plan_of(project, data), store_of(project)
    for name, key in run_keys(plan).items():
        result = {"output": "outputs/x", "samples": 1, "steps": None}
        if " on " in name:
            run, _, task = name.rpartition(" on ")
            seed, _, run = run.rpartition("/")
            seed = int(seed.partition(" ")[2] or 0)
            result = {"score": score(seed, run.removeprefix("evaluate "), task), "items": None}
        store.folder(key).mkdir(parents=True)
        store.write(Record(key, result, 0.0, 1.0, 0.0), function="f", settings={})


def score(seed, run, task):
    """More with own data, and with b's; c is hard under seed 4."""
    if run == "mini":
        return 0.2 if task == "c" and seed == 4 else 0.4
    return 0.8 if run.endswith(task) else 0.5 + 0.05 * run.endswith("b")


def test_several_seeds_are_trained_under_the_weights_of_their_mean_scores(made):
    project, data, _ = made(seeds=[0, 4])
    finish(project, data, score)
    store = store_of(project)
    wanted = final_plan(project, data, parse_methods(["CoTBal", "one2all"], project), store)
    tables = [
        Scores(
            ["a", "b", "c"],
            [score(seed, "mini", t) for t in "abc"],
            [[score(seed, r, t) for t in "abc"] for r in "abc"],
        )
        for seed in (0, 4)
    ]
    for kind, rule in (("CoTBal", "cotbal"), ("one2all", "one2all")):
        expected = estimate_weights(tables, rule=rule, fixed={"chat": 1.5}).weights
        alone = estimate_weights(tables[0], rule=rule, fixed={"chat": 1.5}).weights
        assert alone != pytest.approx(expected)
        for seed in (0, 4):
            assert wanted.plan[f"seed {seed}/final {kind}"].settings["weights"] == pytest.approx(expected)


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
    tasks["a"]["test"], tasks["b"]["test"] = "a.jsonl", {"one": "a.jsonl", "two": "b.json"}
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
    found = collected(project, data, [], store_of(project))
    assert [column.source for column in found.columns] == ["test", "test", "test", "validation"]
    files = {"a": "a.jsonl", "b/one": "a.jsonl", "b/two": "b.json", "c": tasks["c"]["validation"]}
    assert found.sha256 == {
        name: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for name, file in files.items()
    }


def test_equal_weights_are_the_model_that_the_file_has(made, tmp_path):
    project, _, wanted = made("EW", **given(tmp_path))
    assert list(wanted.plan) == [f"evaluate equal on {task}" for task in "abc"]
    left = left_to_do(project, prepare(project), wanted, store_of(project))
    assert str(tmp_path / "equal") in left["runs"][0]["command"]
    # By which an evaluation tells that it is another one by then.
    known = fingerprint(tmp_path / "equal", SECOND)
    assert {wanted.plan[name].context["model_files"] for name in wanted.plan} == {known}
    (ew,) = (
        collected(project, prepare(project), parse_methods(["EW"], project), store_of(project))
        .models["EW"]
        .values()
    )
    assert ew.details["models"] == {"equal": str(tmp_path / "equal")}
    assert left["totals"]["trainings"] == 0


def test_weights_wait_for_the_runs_of_the_precise_difficulty_and_are_counted(made):
    project, data, _ = made()
    methods = parse_methods(["CoTBal D=precise", "EW"], project)
    with pytest.raises(ValueError, match="the estimate is not finished: 16 of 16 runs are missing"):
        final_plan(project, data, methods, store_of(project))
    finish(project, data, score)
    wanted = final_plan(project, data, methods, store_of(project))
    assert list(wanted.waiting) == ["final CoTBal D=precise"]
    assert {"alone mini a", "alone full c", "final EW"} <= set(wanted.plan)
    left = left_to_do(project, data, wanted, store_of(project))
    late = {run["name"]: run["command"] for run in left["runs"] if run["state"] == "waits"}
    assert set(late) == {
        "final CoTBal D=precise",
        *(f"evaluate final CoTBal D=precise on {task}" for task in "abc"),
    }
    assert set(late.values()) == {None}
    # Six runs on a task alone, two final runs; the estimate is there.
    assert left["totals"]["samples"] == 25 + 200 + 2 * 210


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
    # Taken for none, the methods would be gone from the file that is written anew.
    (project.out / "finals.json").unlink()
    (project.out / "finals.json").mkdir()
    with pytest.raises(IsADirectoryError):
        known_methods(project)


def test_rungs_have_nested_shares_above_the_mini_subset_each_scored_on_its_task(made):
    project, *_ = made(mini_ratio="1/32")
    plan = rung_plan(project, rung_data(project))
    trainings = [name for name in plan if not plan[name].needs]
    names = ("eighth probe", "quarter probe", "half probe", "probe")
    assert trainings == ["mini", *(f"{name} {task}" for task in "abc" for name in names)]
    assert plan["eighth probe b"].context["samples"] == 2 + 12 + 1
    assert [name for name in plan if " on " in name and "eighth" in name] == [
        f"evaluate eighth probe {task} on {task}" for task in "abc"
    ]
    toy, *_ = made()
    assert shares(toy) == ["1/4", "1/2"]
    # As the estimate has them, so that both ends are there already.
    estimate = run_keys(plan_of(project, prepare(project)))
    keys = run_keys(plan)
    assert all(keys[name] == estimate[name] for name in ("mini", "probe a", "evaluate probe b on b"))


def test_rungs_are_measured_of_the_tasks_that_have_all_of_theirs_under_every_seed(made):
    tasks = {task: {"train": f"{task}.json", "validation": "val.jsonl", "metric": "EM"} for task in "ab"}
    tasks["b"] |= {"better": "lower", "transform": "reciprocal"}
    project, *_ = made(tasks=tasks, seeds=[0, 4])
    data, store = rung_data(project), store_of(project)
    plan = rung_plan(project, data)
    order = {"mini": 0, "quarter": 1, "half": 2, "probe": 3}
    for name, key in run_keys(plan).items():
        if name.startswith("seed 4/evaluate half probe b"):
            continue
        result = {"output": "outputs/x"}
        if " on " in name:
            seed, _, run = name.partition("/")
            score = order[run.split()[1]] + 10 * (seed == "seed 4")
            result = {"score": score, "items": [score, score], "clusters": [0, 1]}
        store.folder(key).mkdir(parents=True)
        store.write(Record(key, result, 0.0, 1.0, 0.0), function="f", settings={})
    rungs = measured(project, data, store)
    assert rungs.shares == {"mini": 0.125, "1/4": 0.25, "1/2": 0.5, "full": 1.0}
    assert (rungs.metrics, rungs.transforms) == ({"a": "EM", "b": "EM"}, {"a": "", "b": "reciprocal"})
    assert rungs.scores == {"a": [[0, 1, 2, 3], [10, 11, 12, 13]]}
    assert rungs.items == {"a": [[[s, s] for s in by_share] for by_share in rungs.scores["a"]]}
    assert rungs.clusters == {"a": [[[0, 1]] * 4] * 2}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"test": {}}, "tasks.a.test: expected a file, or files by names without '/'"),
        ({"test": {"x/y": "a.json"}}, "tasks.a.test: expected a file"),
        ({"test": {"x": "a.json", "y/z": "a.json"}}, "tasks.a.test: expected a file"),
        ({"test": "a.json"}, r"tasks.a: its test files need \{data\} in the evaluation command"),
    ],
)
def test_mistakes_about_test_files_are_told(made, tmp_path, task, message):
    tasks = content(tmp_path)["tasks"]
    tasks["a"] |= task
    with pytest.raises(ValueError, match=message):
        made(tasks=tasks)
