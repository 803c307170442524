import pytest

from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.outline import Throughput, check_budget, outline, recorded, run_keys, throughput
from cotbal.project.recipe import plan_of, recipes
from cotbal.project.resources import Resources
from cotbal.project.work import store_of
from cotbal.runs.store import Record
from tests.project.toy import content, write

STEPS = "train {data} {output} {seed} --max_steps {steps}"


@pytest.fixture
def made(tmp_path):
    def made(precise=False, step_matched=False, **changes):
        project = load_project(write(tmp_path, **changes), precise=precise, step_matched=step_matched)
        data = prepare(project)
        plan = plan_of(project, data)
        return project, data, plan, outline(project, data, plan, throughput(project, plan, {}))

    return made


def runs(shown, kind):
    return {run["name"]: run for run in shown["runs"] if run["kind"] == kind}


@pytest.mark.parametrize(("epochs", "written"), [(2.0, "2"), (0.5, "0.5"), (1 / 3, "0.3333333333333333")])
def test_a_command_gets_all_digits_of_its_epochs(epochs, written, made):
    *_, shown = made(train={"command": "t {data} {output} {seed} {epochs}", "epochs": epochs})
    assert runs(shown, "train")["mini"]["command"].endswith(f" {written}")


def test_plan_has_the_mini_run_the_probes_and_their_evaluations_with_samples_and_price(made):
    train = {"command": STEPS, "epochs": 2.0, "batch_size": 10, "samples_per_gpu_hour": 50.0}
    evaluate = {"command": "e {model} {task} {scores} {data}", "items_per_gpu_hour": 40.0}
    project, _, plan, shown = made(train=train, evaluate=evaluate)
    trainings = runs(shown, "train")
    assert {name: run["samples"] for name, run in trainings.items()} == {
        "mini": 8 + 12 + 5,
        "probe a": 64 + 12 + 5,
        "probe b": 8 + 96 + 5,
        "probe c": 8 + 12 + 40,
    }
    assert [run["steps"] for run in trainings.values()] == [5, 17, 22, 12]
    assert trainings["probe a"]["gpu_hours"] == pytest.approx(81 * 2 / 50)
    evaluations = runs(shown, "evaluate")
    assert list(evaluations)[:4] == [*(f"evaluate mini on {t}" for t in "abc"), "evaluate probe a on a"]
    assert {(run["items"], run["gpu_hours"]) for run in evaluations.values()} == {(20, 0.5)}
    assert shown["totals"] == {
        "trainings": 4,
        "evaluations": 12,
        "samples": 2 * 275,
        "items": 240,
        "of_full_data": 275 / 200,
        "gpu_hours": pytest.approx(275 * 2 / 50 + 12 * 0.5),
    }
    first, out = evaluations["evaluate mini on a"], project.out
    model, scores = out / "outputs" / trainings["mini"]["key"], out / "runs" / first["key"] / "scores.json"
    assert first["command"] == f"e {model} a {scores} {project.folder / 'val.jsonl'}"
    # Samples of training and items in one unit, so that the time left is told rightly: 0.5 hours each.
    assert plan.steps["evaluate mini on a"] == 25
    assert trainings["mini"]["command"].endswith(" 0 --max_steps 5")


def test_no_throughput_no_price_until_runs_are_finished(made):
    project, data, plan, shown = made(resources={"gpus": 4, "gpus_per_run": 2})
    assert shown["totals"]["gpu_hours"] is None
    keys, store = run_keys(plan), store_of(project)
    # 25 samples in half an hour and 20 items in a quarter, on 2 GPUs.
    for name, started, finished in (("mini", 100.0, 1900.0), ("evaluate mini on a", 1900.0, 2800.0)):
        store.folder(keys[name]).mkdir(parents=True)
        store.write(Record(keys[name], {}, started, finished, 0.0), function="f", settings={})
    finished = recorded(plan, store)
    known = throughput(project, plan, finished)
    assert known == Throughput(25.0, 40.0)
    assert outline(project, data, plan, known)["totals"]["gpu_hours"] == pytest.approx(275 / 25 + 240 / 40)
    without = project.model_copy(update={"resources": Resources(slots=2)})
    assert throughput(without, plan, finished) == Throughput(50.0, 80.0)
    # Of what went on from a checkpoint the hours before it are not known.
    resumed = finished | {"mini": Record(keys["mini"], {"resumed": True}, 0.0, 1.0, 0.0)}
    assert throughput(without, plan, resumed) == Throughput(None, 80.0)


def test_items_that_no_file_counts_have_no_price_by_items(made, tmp_path):
    """As of questions in a table: each evaluation was priced as one item, and passed any budget."""
    (tmp_path / "val.tsv").write_text("question\tanswer\n" * 5000)
    tasks = content(tmp_path)["tasks"]
    tasks["b"]["validation"] = "val.tsv"
    train = {**content(tmp_path)["train"], "samples_per_gpu_hour": 50.0}
    evaluate = {**content(tmp_path)["evaluate"], "items_per_gpu_hour": 40.0}
    project, data, plan, shown = made(tasks=tasks, train=train, evaluate=evaluate)
    evaluations = runs(shown, "evaluate")
    priced = {run["task"]: (run["items"], run["gpu_hours"]) for run in evaluations.values()}
    assert priced == {"a": (20, 0.5), "b": (None, None), "c": (20, 0.5)}
    assert (shown["totals"]["items"], shown["totals"]["gpu_hours"]) == (None, None)
    with pytest.raises(ValueError, match="validation files whose items can be counted"):
        check_budget(project.model_copy(update={"budget": "80 GPU-hours"}), shown["totals"], "raise it")
    record = Record(evaluations["evaluate mini on b"]["key"], {}, 0.0, 7200.0, 0.0)
    known = throughput(project, plan, {"evaluate mini on b": record})
    assert known == Throughput(50.0, 40.0, 0.5)
    totals = outline(project, data, plan, known)["totals"]
    assert totals["gpu_hours"] == pytest.approx(275 / 50 + 8 * 0.5 + 4 * 2)


def test_precise_adds_two_runs_per_task_each_scored_on_its_task(made):
    *_, shown = made(precise=True)
    trainings = runs(shown, "train")
    assert {n: r["samples"] for n, r in trainings.items() if n.startswith("alone")} == {
        **{"alone mini a": 8, "alone mini b": 12, "alone mini c": 5},
        **{"alone full a": 64, "alone full b": 96, "alone full c": 40},
    }
    alone = [name for name in runs(shown, "evaluate") if "alone" in name]
    assert alone == [
        f"evaluate alone {share} {task} on {task}" for share in ("mini", "full") for task in "abc"
    ]


def test_step_matched_mini_run_takes_the_steps_of_the_mean_probe(made):
    *_, shown = made(step_matched=True, train={"command": STEPS, "batch_size": 10})
    mini = runs(shown, "train")["mini"]
    assert mini["samples"] == 25
    assert mini["work"] == 84  # (81 + 109 + 60) / 3
    assert mini["command"].endswith("--max_steps 9")
    assert shown["totals"]["samples"] == 84 + 81 + 109 + 60


def test_step_matching_knows_that_cheap_probes_have_a_quarter(made, tmp_path):
    (tmp_path / "equal").mkdir()
    (tmp_path / "equal" / "model.json").write_text("{}")
    cheap = {"mode": "cheap", "equal_model": "equal", "mini_ratio": "1/16"}
    *_, shown = made(step_matched=True, train={"command": STEPS, "batch_size": 10}, **cheap)
    trainings = runs(shown, "train")
    assert [run["work"] for run in trainings.values()] == [26, 25, 31, 20]  # 76 / 3 and its parts
    with pytest.raises(ValueError, match="step_matched: mode no-probes has no probes to match"):
        made(step_matched=True, train={"command": STEPS, "batch_size": 10}, **cheap | {"mode": "no-probes"})


def test_step_matching_needs_the_steps_in_the_command(made):
    with pytest.raises(ValueError, match=r"toy.yaml, line 1: step_matched: it needs \{steps\}"):
        made(step_matched=True)


def test_several_seeds_have_runs_of_their_own(made):
    *_, plan, shown = made(seeds=[0, 4])
    assert len(plan) == 32
    assert len({run["key"] for run in shown["runs"]}) == 32
    assert shown["runs"][0]["name"] == "seed 0/mini"
    assert shown["totals"]["of_full_data"] == 275 / 200
    assert "evaluate probe a on b" in [run["name"].rpartition("/")[2] for run in shown["runs"]]


def test_probe_commands_are_for_the_estimate_and_leave_final_models_alone(made, tmp_path):
    whole = content(tmp_path)
    adapters = {"probe_command": "lora {data} {output} {weights}"}
    tested = {"probe_command": "score-lora {model} {task} {scores}"}
    changes = {"train": whole["train"] | adapters, "evaluate": whole["evaluate"] | tested}
    _, _, plain, _ = made(precise=True)
    project, data, plan, _ = made(precise=True, **changes)
    for name in plan:
        begins = "score-lora " if name.startswith("evaluate") else "lora "
        assert plan[name].settings["command"].startswith(begins), name
    recipe = recipes(project, data)[0]
    final, single = recipe.final("cotbal", {"a": 2.0, "b": 0.5, "c": 0.5, "chat": 1.5}), recipe.single("a")
    assert single.name == "single a"
    of_estimate = plain["alone full a"].settings
    assert single.settings["command"] == of_estimate["command"].replace("'alone full a'", "'single a'")
    assert {**single.settings, "command": ""} == {**of_estimate, "command": ""}
    for spec in (final, single, *recipe.tests(final).values(), *recipe.tests(single).values()):
        assert "toy.py" in spec.settings["command"], spec.name


def test_several_seeds_need_the_seed_in_the_probe_command_too(made, tmp_path):
    train = content(tmp_path)["train"] | {"probe_command": "lora {data} {output}"}
    with pytest.raises(ValueError, match=r"several need \{seed\} in train.probe_command"):
        made(train=train, seeds=[0, 1])


def test_steps_are_matched_by_the_probe_command(made, tmp_path):
    train = content(tmp_path)["train"] | {"batch_size": 10}
    assert made(step_matched=True, train=train | {"probe_command": STEPS})
    with pytest.raises(ValueError, match=r"\{steps\} in train.probe_command"):
        made(step_matched=True, train={**train, "command": STEPS, "probe_command": "l {data} {output}"})


@pytest.mark.parametrize("mode", ["cheap", "no-probes"])
def test_adapters_are_not_compared_with_a_model_without(made, tmp_path, mode):
    train = content(tmp_path)["train"] | {"probe_command": "lora {data} {output}"}
    with pytest.raises(ValueError, match=rf"train.probe_command: mode {mode} compares its models with"):
        made(mode=mode, equal_model="equal", train=train)


@pytest.mark.parametrize("mode", ["full", "cheap", "no-probes"])
def test_weights_that_the_command_lacked_can_be_given_to_final_models_alone(made, tmp_path, mode):
    (tmp_path / "equal").mkdir()
    (tmp_path / "equal" / "model").write_text("1")
    asked = {"mode": mode, "mini_ratio": "1/16"} | ({} if mode == "full" else {"equal_model": "equal"})
    before = "t {data} --out {output} | tee log"
    earlier = keys(made, train={"command": before}, **asked)
    for added in (" {weights}", " --weights {weights}", " weights={weights}"):
        command = before.replace(" |", f"{added} |")
        assert keys(made, train={"command": command, "probe_command": before}, **asked) == earlier
        if mode != "full":
            with pytest.raises(ValueError, match=r"let it be train.command without \{weights\}"):
                made(train={"command": command, "probe_command": before + "2"}, **asked)


def keys(made, **changes):
    _, _, plan, _ = made(**changes)
    return run_keys(plan)


def test_key_changes_with_what_determines_the_result_and_with_nothing_else(made, tmp_path):
    whole = content(tmp_path)
    before = keys(made)
    assert keys(made) == before
    same = [
        {"resources": {"slots": 1}},
        {"temperature": 0.7, "rule": "difficulty"},
        {"train": {**whole["train"], "resume": True, "samples_per_gpu_hour": 9.0}},
        {"evaluate": {**whole["evaluate"], "resume": True}},
    ]
    for changes in same:
        assert keys(made, **changes) == before, changes
    tasks = {**whole["tasks"], "c": {**whole["tasks"]["c"], "evaluate": "other {model} {scores}"}}
    other = keys(made, tasks=tasks)
    assert {name for name in before if before[name] != other[name]} == {
        n for n in before if n.endswith("on c")
    }
    for changes in (
        {"mini_ratio": "1/4"},
        {"train": {"command": whole["train"]["command"] + " --other"}},
        {"train": {**whole["train"], "format": "jsonl"}},
        {"seeds": [1]},
    ):
        assert not set(keys(made, **changes).values()) & set(before.values()), changes


def test_key_changes_with_the_number_of_gpus_only_where_the_command_has_it(made, tmp_path):
    def with_gpus(number, more):
        command = content(tmp_path)["train"]["command"] + more
        return keys(made, train={"command": command}, resources={"gpus": 4, "gpus_per_run": number})

    assert with_gpus(1, "") == with_gpus(2, "")
    assert not set(with_gpus(1, " {gpus}").values()) & set(with_gpus(2, " {gpus}").values())


def test_key_changes_with_the_data_of_the_run(made, tmp_path):
    before = keys(made)
    project = load_project(tmp_path / "toy.yaml")
    (tmp_path / "val.jsonl").write_text("{}\n" * 21)
    after = run_keys(plan_of(project, prepare(project)))
    assert {n for n in before if before[n] != after[n]} == {n for n in before if n.startswith("evaluate")}


def test_final_run_has_all_data_and_the_weights(made):
    project, data, *_ = made()
    recipe = recipes(project, data)[0]
    final = recipe.final("cotbal", {"a": 1.0, "b": 0.5, "c": 1.5, "chat": 1.5})
    assert [part["task"] for part in final.settings["data"]] == ["a", "b", "c", "chat"]
    assert final.steps == 64 + 96 + 40 + 10
    assert final.settings["weights"]["b"] == 0.5


def test_lower_is_better_reaches_the_recipe(made, tmp_path):
    tasks = content(tmp_path)["tasks"]
    tasks["b"] |= {"better": "lower", "transform": "complement: 2"}
    project, data, *_ = made(tasks=tasks)
    assert recipes(project, data)[0].transforms == {"b": "complement: 2"}


def test_moving_the_project_changes_no_key(made, tmp_path):
    before = keys(made)
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    project = load_project(moved / "toy.yaml")
    assert run_keys(plan_of(project, prepare(project))) == before


def test_mini_run_and_its_evaluations_start_first_so_that_a_broken_command_shows_early(made):
    _, _, plan, _ = made(seeds=[0, 1], train={"command": "train {data} {output} {seed}"})
    order = sorted(plan, key=plan.urgency, reverse=True)
    assert order[:4] == ["seed 0/mini", *(f"seed 0/evaluate mini on {task}" for task in "abc")]
    assert order[4] == "seed 0/probe b"
    assert plan.remaining(plan.steps, [], 1) == sum(plan.steps.values())
