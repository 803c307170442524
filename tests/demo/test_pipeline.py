import pytest

from cotbal.demo.pipeline import Demo, DemoRecipe
from cotbal.demo.profiles import PROFILES, steps
from cotbal.runs.plan import LateSpec
from cotbal.runs.store import run_key

QUICK = PROFILES["quick"]
TASKS = QUICK.tasks


def specs(demo):
    plan = demo.plan()
    return {name: plan[name] for name in plan}


def test_quick_demo_is_base_mini_probes_final_equal_and_single_task_runs():
    names = list(specs(Demo("quick", (0,))))
    singles = [f"STL {task}" for task in TASKS]
    assert names == ["base", "mini", *(f"probe {task}" for task in TASKS), "CoTBal", "EW", *singles]


def test_probe_is_one_full_set_with_the_minis_of_the_others():
    runs = specs(Demo("quick", (3,)))
    assert runs["mini"].settings["data"] == dict.fromkeys(TASKS, "mini")
    for task in TASKS:
        settings = runs[f"probe {task}"].settings
        assert settings["data"] == {**dict.fromkeys(TASKS, "mini"), task: "full"}
        assert settings["split"] == "validation"
        assert settings["evaluate"] == list(TASKS)
        assert settings["weights"] is None
        assert settings["seed"] == 3


def test_final_runs_take_all_data_and_are_tested_on_every_task():
    recipe = DemoRecipe("quick", 0)
    weights = {**dict.fromkeys(TASKS, 2.0), "chat": 1.0}
    final, equal = recipe.final("cotbal", weights).settings, recipe.mixture("EW").settings
    assert final == {**equal, "weights": weights}
    assert equal["weights"] is None
    assert equal["data"] == {**dict.fromkeys(TASKS, "full"), "chat": "full"}
    assert (equal["split"], equal["evaluate"]) == ("test", [*TASKS, "chat"])


def test_single_task_model_sees_and_is_tested_on_its_task_alone():
    settings = DemoRecipe("quick", 0).single("ocr").settings
    assert (settings["data"], settings["evaluate"], settings["split"]) == ({"ocr": "full"}, ["ocr"], "test")


def test_every_run_starts_from_the_base_model_and_knows_its_length():
    for name, spec in specs(Demo("quick", (0,))).items():
        assert ("base" in spec.needs) == (name != "base")
        if not isinstance(spec, LateSpec):
            assert spec.steps == steps(spec.settings)
    assert specs(Demo("quick", (0,)))["CoTBal"].steps == specs(Demo("quick", (0,)))["EW"].steps


def test_full_demo_has_three_seeds_tla_and_the_ablations():
    demo = Demo.full()
    assert (demo.profile, demo.seeds) == ("full", (0, 1, 2))
    ablations = [f"CoTBal ({rule})" for rule in ("one2all", "all2one", "contribution", "difficulty")]
    assert demo.methods == ("EW", "TLA", "CoTBal", *ablations)
    runs = specs(demo)
    assert len(runs) == 3 * (2 + 7 + 7 + len(demo.methods))
    assert all(f"seed {seed}/{method}" in runs for seed in (0, 1, 2) for method in demo.methods)
    tla = runs["seed 1/TLA"].settings
    assert (tla["weighting"], tla["weights"], tla["seed"]) == ("tla", None, 1)
    assert tla["data"] == runs["seed 1/EW"].settings["data"]


def test_other_settings_never_share_a_result_and_the_same_ones_do():
    def keys(demo):
        plain = [spec for spec in specs(demo).values() if not isinstance(spec, LateSpec)]
        return {run_key(spec) for spec in plain}

    one = keys(Demo("quick", (0,)))
    assert one <= keys(Demo.full("quick", (0, 1, 2)))
    for other in (Demo("quick", (1,)), Demo("full", (0,)), Demo("quick", (0,), "cuda")):
        assert not one & keys(other)


def test_profile_without_base_stage_has_no_base_run():
    names = {name: spec.needs for name, spec in specs(Demo("micro", (0,))).items()}
    assert "base" not in names
    assert names["mini"] == ()


@pytest.mark.parametrize("name", ["quick", "full", "micro"])
def test_scores_are_read_by_the_profile_s_metric(name):
    recipe, profile = DemoRecipe(name, 0), PROFILES[name]
    result = {
        "scores": {task: {"other": 9.0, profile.metrics[task]: 0.5} for task in profile.tasks},
        "items": {task: {"other": [9.0], profile.metrics[task]: [0.25, 0.75]} for task in profile.tasks},
    }
    first, *_ = profile.tasks
    for run, tasks in ((recipe.mini(), profile.tasks), (recipe.alone(first, "full"), [first])):
        assert recipe.scored_by(run) == (run.name,)
        assert recipe.validation_scores(run, {run.name: result}) == dict.fromkeys(tasks, 0.5)
        assert recipe.validation_items(run, {run.name: result}) == {task: [0.25, 0.75] for task in tasks}
