"""`run_project` with commands that take no time: seeds, what is missing, what is refused, what is told."""

import contextlib
import json
import shutil

import pytest

from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.items_json import read_items
from cotbal.project import session
from cotbal.project.config import load_project
from cotbal.project.session import run_project
from cotbal.project.work import headline
from cotbal.weights import TaskWeights
from tests.project.instant import instantly
from tests.project.toy import write
from tests.runs.fake_runs import Notes


def score(name, task):
    """More with own data, and with b's; c is hard under seed 4."""
    run = name.partition("evaluate ")[2].partition(" on ")[0]
    if run == "mini":
        return 0.2 if task == "c" and name.startswith("seed 4") else 0.4
    return 0.8 if run.endswith(task) else 0.5 + 0.05 * run.endswith("b")


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(score=score, fails=(), plans=None, **changes):
        monkeypatch.setattr(session, "work", instantly(score, fails, plans))
        listener = Notes()
        project = load_project(write(tmp_path, **changes))
        return run_project(project, lambda: contextlib.nullcontext(listener)), listener

    return run


def table(prefix):
    rows = [[score(f"{prefix}evaluate probe {i} on {j}", j) for j in "abc"] for i in "abc"]
    return Scores(["a", "b", "c"], [score(f"{prefix}evaluate mini on {j}", j) for j in "abc"], rows)


def test_a_task_without_items_leaves_the_others_theirs_and_their_noise_its_say(tmp_path, monkeypatch):
    """As of one metric that has no score by item: a gain inside its noise is no denominator of C for that."""

    def work(project, plan, store, listener):
        execution = instantly(score)(project, plan, store, listener)
        for name, record in execution.records.items():
            run, _, task = name.rpartition(" on ")
            right = 5 + (run == f"evaluate probe {task}") * (1 if task == "b" else 4)
            items = None if (task, run) == ("c", "evaluate probe b") else [1.0] * right + [0.0] * (10 - right)
            record.result.update(score=right / 10, items=items, clusters=[*range(10)])
        return execution

    monkeypatch.setattr(session, "work", work)
    outcome = run_project(load_project(write(tmp_path)), lambda: contextlib.nullcontext(Notes()))
    assert "of task 'b' is 0.1, only 1.00 of its standard errors" in outcome.refused[0]
    kept = read_items(outcome.files["items"])
    assert list(kept.items) == ["mini", "a", "b", "c"]
    assert all(set(of_run) == {"a", "b"} for of_run in kept.items.values())
    assert set(kept.clusters) == {"a", "b"}


def test_one_seed_has_its_files_in_the_output_itself(run, tmp_path):
    outcome, listener = run()
    assert outcome.complete
    assert (outcome.failures, outcome.missing, outcome.stale, outcome.spread) == ({}, [], [], {})
    assert outcome.pooled is None
    out = tmp_path / "out"
    names = {"scores": "scores.csv", "items": "items.json", "weights": "weights.json"}
    assert outcome.files == {name: out / file for name, file in names.items()}
    assert TaskWeights.load(out / "weights.json").weights == outcome.weights[0].weights
    expected = estimate_weights(table(""), fixed={"chat": 1.5}).weights
    assert outcome.weights[0].weights == pytest.approx(expected)
    assert (out / "plan.json").exists()
    assert listener.about("noted") == []


def test_several_seeds_have_folders_of_their_own_and_the_weights_of_their_mean(run, tmp_path):
    outcome, _ = run(seeds=[0, 4], rule="one2all")
    out, tables = tmp_path / "out", [table(f"seed {seed}/") for seed in (0, 4)]
    options = {"rule": "one2all", "fixed": {"chat": 1.5}}
    for seed, scores in zip((0, 4), tables, strict=True):
        written = TaskWeights.load(out / f"seed-{seed}" / "weights.json").weights
        assert written == pytest.approx(estimate_weights(scores, **options).weights)
        assert read_items(out / f"seed-{seed}" / "items.json").clusters["a"] == [0, 1]
    assert outcome.pooled.weights == pytest.approx(estimate_weights(tables, **options).weights)
    assert TaskWeights.load(out / "weights.json").weights == outcome.pooled.weights
    assert outcome.pooled.provenance["seed_sd"] == outcome.spread
    assert outcome.pooled.provenance["seeds"]["4"] == dict(outcome.weights[4])
    assert Scores.from_csv(out / "scores.csv").mini.tolist() == pytest.approx([0.4, 0.4, 0.3])
    assert {name for name in outcome.files if "seed" not in name} == {"scores", "weights"}
    assert outcome.complete


def test_files_of_seeds_that_the_file_no_longer_has_are_of_an_earlier_start(run, tmp_path):
    run(seeds=[0, 4])
    outcome, _ = run(seeds=[4])
    names = ("scores.csv", "items.json", "weights.json")
    assert outcome.stale == [tmp_path / "out" / f"seed-{seed}" / name for seed in (0, 4) for name in names]
    outcome, _ = run(seeds=[0, 4])
    assert outcome.stale == [tmp_path / "out" / "items.json"]


def test_a_seed_that_lacks_a_run_holds_back_its_weights_and_those_of_the_mean(run, tmp_path):
    outcome, _ = run(seeds=[0, 4], fails={"seed 4/evaluate probe a on b"})
    assert outcome.missing == ["seed 4/evaluate probe a on b"]
    assert outcome.failures == {"seed 4/evaluate probe a on b": "no luck"}
    assert set(outcome.weights) == {0}
    assert outcome.pooled is None
    assert not (tmp_path / "out" / "weights.json").exists()
    assert not outcome.complete
    outcome, _ = run(seeds=[0, 4])
    assert outcome.complete


def test_scores_that_allow_no_weights_are_written_all_the_same(run):
    outcome, _ = run(lambda name, task: 0.5, seeds=[0, 4])
    assert set(outcome.refused) == {0, 4}
    assert outcome.refused_pooled.startswith("scores: V(a + mini) - V(mini) of task 'a' is 0, expected > 0")
    assert not outcome.complete
    assert set(outcome.files) == {
        "scores",
        *(f"{what}, seed {s}" for s in (0, 4) for what in ("scores", "items")),
    }


def test_a_budget_is_held_before_anything_runs(run):
    plans = []
    with pytest.raises(
        ValueError, match="at most 274 samples, the runs come to 275; mode cheap or no-probes"
    ):
        run(budget="274 samples", plans=plans)
    assert plans == []
    outcome = run(budget="275 samples")[0]
    assert outcome.complete
    # Another mode would have runs of its own.
    count = f"the {len(outcome.plan)} that are finished count too; raise the budget"
    with pytest.raises(ValueError, match=f"at most 274 samples, the runs come to 275; {count}"):
        run(budget="274 samples")
    with pytest.raises(ValueError, match=r"budget: expected at most 0\.0001 GPU-hours, the runs come to"):
        run(budget="0.0001 GPU-hours")


def test_gpu_hours_that_are_not_known_hold_no_budget(run):
    with pytest.raises(ValueError, match="the GPU-hours of the plan are not known"):
        run(budget="8 GPU-hours")


def test_what_is_done_again_is_noted(run):
    run()
    plans = []
    evaluate = {"command": "other {model} {scores}"}
    _, listener = run(evaluate=evaluate, plans=plans)
    (note,) = listener.about("noted")
    assert note.startswith("finished under other settings and done again: evaluate mini on a, ")
    assert len(plans[0]) == 12
    assert run()[1].about("noted") == []


def test_a_model_that_is_trained_again_is_scored_again(run, tmp_path):
    run()
    plans, out = [], tmp_path / "out"
    keys = {each["name"]: each["key"] for each in json.loads((out / "plan.json").read_text())["runs"]}
    shutil.rmtree(out / "runs" / keys["probe b"])

    def better(name, task):
        return score(name, task) + 0.1 * ("probe b" in name)

    outcome, listener = run(better, plans=plans)
    assert plans == [["probe b", *(f"evaluate probe b on {task}" for task in "abc")]]
    assert Scores.from_csv(out / "scores.csv").probes[1].tolist() == pytest.approx([0.65, 0.9, 0.65])
    # The settings are what they were.
    assert listener.about("noted") == []
    plans.clear()
    assert run(better, plans=plans)[0].weights == outcome.weights
    assert plans == [[]]


def test_a_command_that_takes_no_weights_is_noted_before_anything_runs(run):
    _, listener = run(train={"command": "t {data} {output}"})
    (note,) = listener.about("noted")
    assert note.startswith("train.command has no {weights}, which `cotbal train` needs. Put it in before")


def test_headline_is_the_score_or_the_samples():
    class Finished:
        result = {"score": 0.123456, "samples": 3}  # noqa: RUF012 - a double

    assert headline(Finished) == "score 0.1235"
    Finished.result = {"samples": 3}
    assert headline(Finished) == "3 samples"


def test_a_training_file_of_two_tasks_is_noted(run, tmp_path):
    tasks = {"a": {"train": "a.json"}, "b": {"train": "./a.json"}, "c": {"train": "c.json"}}
    _, listener = run(tasks=tasks)
    (noted,) = listener.about("noted")
    assert "a, b train on one file, a.json: " in str(noted)
