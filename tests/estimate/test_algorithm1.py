import dataclasses

import pytest

from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.items_json import read_items
from cotbal.estimate.recipe import Recipe
from cotbal.runs.store import RunSpec

TASKS = ("a", "b", "c")
MINI = [0.2, 0.3, 0.25]
PROBES = [[0.6, 0.35, 0.3], [0.25, 0.7, 0.2], [0.3, 0.4, 0.5]]


@dataclasses.dataclass
class ToyRecipe(Recipe):
    tasks = TASKS
    fixed = {"chat": 1.0}  # noqa: RUF012 - a protocol's attribute, not state
    turned: dict = dataclasses.field(default_factory=dict)
    with_items: bool = True

    @property
    def transforms(self):
        return self.turned

    def training(self, name, data):
        return RunSpec(name, "m:f", {"data": dict(data)}, len(data), ("base",))

    def final(self, rule, weights):
        return RunSpec(f"final {rule}", "m:f", {"weights": dict(weights)}, 9, ("base",))

    def scored_by(self, run):
        return (f"{run.name}/scores",)

    def validation_scores(self, run, results):
        return results[f"{run.name}/scores"]["scores"]

    def validation_items(self, run, results):
        return results[f"{run.name}/scores"]["items"] if self.with_items else None

    def validation_clusters(self, run, results):
        return results[f"{run.name}/scores"].get("clusters", {})


def result(row, spread=0.001):
    items = {task: [score - spread, score, score + spread] for task, score in zip(TASKS, row, strict=True)}
    return {"scores": dict(zip(TASKS, row, strict=True)), "items": items}


RESULTS = {
    "mini/scores": result(MINI),
    **{f"probe {t}/scores": result(row) for t, row in zip(TASKS, PROBES, strict=True)},
}


def test_every_run_trains_on_the_shares_that_algorithm_1_says():
    mini, *probes = Algorithm1(ToyRecipe()).estimation_runs()
    assert mini.settings == {"data": {"a": "mini", "b": "mini", "c": "mini"}}
    assert probes[1].settings == {"data": {"a": "mini", "b": "full", "c": "mini"}}
    alone = Algorithm1(ToyRecipe(), precise=True).estimation_runs()[4:]
    assert [spec.settings["data"] for spec in alone[:4]] == [
        {"a": "mini"},
        {"b": "mini"},
        {"c": "mini"},
        {"a": "full"},
    ]


def test_modes_have_the_probes_and_the_model_that_they_say():
    def names(mode):
        return [spec.name for spec in Algorithm1(ToyRecipe(), mode=mode).estimation_runs()]

    assert names("cheap") == ["mini", "quarter probe a", "quarter probe b", "quarter probe c", "equal"]
    assert names("no-probes") == ["mini", "equal"]
    _, probe, *_, equal = Algorithm1(ToyRecipe(), mode="cheap").estimation_runs()
    assert probe.settings == {"data": {"a": "1/4", "b": "mini", "c": "mini"}}
    assert equal.settings == {"data": {"a": "full", "b": "full", "c": "full", "chat": "full"}}


def test_scores_of_a_cheap_estimate_have_the_equally_weighted_model():
    results = {name.replace("probe", "quarter probe"): of_run for name, of_run in RESULTS.items()}
    results["equal/scores"] = result([0.9, 0.8, 0.7])
    algorithm = Algorithm1(ToyRecipe(), mode="cheap")
    scores = algorithm.scores(results)
    assert scores.equal.tolist() == [0.9, 0.8, 0.7]
    assert set(scores.items) == {"mini", *TASKS, "equal"}
    assert algorithm.weights(results, "difficulty").provenance["difficulty"][0] == pytest.approx(
        1 - 0.2 / 0.9
    )


def test_without_probes_only_rule_cotbal_has_weights():
    results = {"mini/scores": result(MINI), "equal/scores": result([0.9, 0.8, 0.7])}
    algorithm = Algorithm1(ToyRecipe(), mode="no-probes")
    assert algorithm.weights(results)["chat"] == 1.0
    with pytest.raises(ValueError, match="expected 'cotbal' where there are no probes, got 'one2all'"):
        algorithm.weights(results, "one2all")


@pytest.mark.parametrize("with_items", [True, False])
def test_without_probes_the_items_are_kept_for_the_intervals(with_items, tmp_path):
    results = {"mini/scores": result(MINI), "equal/scores": result([0.9, 0.8, 0.7])}
    algorithm = Algorithm1(
        ToyRecipe(with_items=with_items, turned={"b": "complement: 2.0"}), mode="no-probes"
    )
    models = algorithm.two_models(results)
    assert (models.mini, models.equal) == (MINI, [0.9, 0.8, 0.7])
    assert models.transforms == {"b": "complement: 2.0"}
    assert set(models.items) == ({"mini", "equal"} if with_items else set())
    assert set(algorithm.write_scores(models, tmp_path)) == {"scores", *(["items"] if with_items else [])}
    results["equal/scores"]["items"] = None
    assert algorithm.two_models(results).items == {}


def test_temperature_and_alpha_are_the_papers_where_nothing_else_is_said():
    found = Algorithm1(ToyRecipe()).weights(RESULTS)
    assert dict(found) == estimate_weights(Scores(TASKS, MINI, PROBES), fixed={"chat": 1.0}).weights


def test_final_run_waits_for_all_estimation_runs_and_has_its_size_before():
    algorithm = Algorithm1(ToyRecipe())
    assert [spec.name for spec in algorithm.estimation_runs()] == ["mini", "probe a", "probe b", "probe c"]
    final = algorithm.final_run()
    assert (final.name, final.steps) == ("final cotbal", 9)
    assert final.needs == ("base", *(f"{run}/scores" for run in ("mini", "probe a", "probe b", "probe c")))


@pytest.mark.parametrize("rule", ["cotbal", "one2all", "difficulty"])
def test_final_run_gets_the_weights_of_its_rule(rule):
    algorithm = Algorithm1(ToyRecipe(), temperature=0.7, alpha=0.25)
    expected = estimate_weights(
        Scores(TASKS, MINI, PROBES), rule=rule, temperature=0.7, alpha=0.25, fixed={"chat": 1.0}
    )
    assert algorithm.final_run(rule).build(RESULTS).settings == {"weights": expected.weights}


@pytest.mark.parametrize("with_items", [True, False])
def test_scores_keep_the_items_for_the_noise_guard(with_items):
    scores = Algorithm1(ToyRecipe(with_items=with_items)).scores(RESULTS)
    assert scores.mini.tolist() == MINI
    assert scores.probes.tolist() == PROBES
    assert set(scores.items) == ({"mini", *TASKS} if with_items else set())


def test_clusters_of_the_items_go_with_them_and_must_be_the_same_for_every_model(tmp_path):
    clusters = {"b": [0, 0, 1]}
    results = {name: {**found, "clusters": clusters} for name, found in RESULTS.items()}
    algorithm = Algorithm1(ToyRecipe())
    scores = algorithm.scores(results)
    assert {task: numbers.tolist() for task, numbers in scores.clusters.items()} == clusters
    assert read_items(algorithm.write_scores(scores, tmp_path)["items"]).clusters == clusters
    of_sets = Scores(scores.tasks, scores.mini, scores.probes, items=scores.items, strata={"b": [3, 3, 3]})
    assert read_items(algorithm.write_scores(of_sets, tmp_path)["items"]).strata == {"b": [3, 3, 3]}
    results["probe c/scores"] = {**RESULTS["probe c/scores"], "clusters": {"b": [0, 1, 1]}}
    with pytest.raises(ValueError, match=r"task 'b': expected those of run 'mini' .* got others in run 'c'"):
        algorithm.scores(results)
    results["probe c/scores"] = RESULTS["probe c/scores"]
    with pytest.raises(ValueError, match="got others in run 'c'"):
        algorithm.scores(results)


def test_noisy_gain_is_dropped_or_raises_as_asked():
    # The gain of c's probe, with items that disagree about it: 0.25 +- 0.6.
    noisy = {
        **RESULTS,
        "probe c/scores": {
            **RESULTS["probe c/scores"],
            "items": {**RESULTS["probe c/scores"]["items"], "c": [0.0, 1.5, 0.0]},
        },
    }
    dropped = Algorithm1(ToyRecipe(), on_unidentified="drop").weights(noisy)
    assert dropped.provenance["unidentified"] == ["c"]
    with pytest.raises(ValueError, match="'c'"):
        Algorithm1(ToyRecipe()).final_run().build(noisy)


def test_precise_difficulty_comes_from_the_runs_on_one_task_alone():
    alone = {f"alone mini {task}/scores": {"scores": {task: 0.2}} for task in TASKS}
    alone |= {f"alone full {task}/scores": {"scores": {task: 0.5 + 0.1 * i}} for i, task in enumerate(TASKS)}
    algorithm = Algorithm1(ToyRecipe(with_items=False), precise=True)
    assert len(algorithm.estimation_runs()) == 1 + 3 * len(TASKS)
    assert set(alone) < set(algorithm.final_run().needs)
    weights = algorithm.weights({**RESULTS, **alone}, "difficulty")
    assert weights.provenance["difficulty"] == pytest.approx([1 - 0.2 / full for full in (0.5, 0.6, 0.7)])


def test_transforms_of_the_recipe_reach_the_table():
    lower = ToyRecipe(turned={"b": "complement: 2.0"}, with_items=False)
    assert Algorithm1(lower).scores(RESULTS).oriented("mini").tolist() == [0.2, 1.7, 0.25]
