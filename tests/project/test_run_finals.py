"""`run_finals`, `run_rungs` with commands that take no time: rounds, failures, what is kept of the models."""

import contextlib
import json

import pytest

from cotbal.compare import read_finals
from cotbal.estimate import Scores, estimate_weights
from cotbal.project import finals, rungs
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.finals import known_methods, run_finals
from cotbal.project.methods import parse_methods
from cotbal.project.recipe import plan_of
from cotbal.project.rungs import run_rungs
from cotbal.project.work import store_of
from cotbal.weights import TaskWeights
from tests.cli.commands import call
from tests.project.instant import instantly
from tests.project.toy import content, write
from tests.runs.fake_runs import Notes

OWN, OTHER, MINI = 0.8, 0.5, 0.4


def score(name, task):
    """More with own data, for a after training alone a little more."""
    if "mini" in name:
        return MINI
    return OWN + 0.1 * ("alone" in name and task == "a") if name.endswith(f"{task} on {task}") else OTHER


@pytest.fixture
def estimated(tmp_path, monkeypatch):
    """The toy with its estimate finished; and a function that trains methods."""
    project = load_project(write(tmp_path))
    instantly(score)(project, plan_of(project, prepare(project)), store_of(project), None)

    def train(*names, changed=project, **how):
        monkeypatch.setattr(finals, "work", instantly(score, **how))
        methods = parse_methods(names, changed)
        return run_finals(changed, methods, lambda: contextlib.nullcontext(Notes()))

    return project, train


def test_weights_that_need_more_runs_are_known_after_a_round(estimated):
    project, train = estimated
    plans = []
    outcome = train("CoTBal D=precise", "EW", plans=plans)
    assert (outcome.failures, outcome.missing) == ({}, [])
    alone = {f"alone {share} {task}" for share in ("mini", "full") for task in "abc"}
    assert [{name for name in plan if " on " not in name} for plan in plans] == [
        alone | {"final EW"},
        {"final CoTBal D=precise"},
    ]
    rows = {t: [OWN if t == column else OTHER for column in "abc"] for t in "abc"}
    single = {"single_mini": [MINI] * 3, "single_full": [OWN + 0.1, OWN, OWN]}
    table = Scores(["a", "b", "c"], [MINI] * 3, list(rows.values()), **single)
    found = outcome.finals.models["CoTBal D=precise"][0]
    expected = estimate_weights(table, precise=True, fixed={"chat": 1.5}).weights
    assert found.details["weights"] == pytest.approx(expected)
    assert expected["a"] > expected["b"]
    assert found.scores == dict.fromkeys("abc", OTHER)
    assert found.items == {task: [OTHER - 0.01, OTHER + 0.01] for task in "abc"}
    (folder,), (key,) = found.details["models"].values(), found.details["keys"].values()
    assert folder == str(project.out / "outputs" / key)
    assert outcome.finals.clusters == {task: [0, 1] for task in "abc"}
    assert read_finals(outcome.files["finals"]) == outcome.finals


def test_a_run_that_fails_holds_its_method_back_and_the_next_start_ends_it(estimated):
    project, train = estimated
    plans = []
    outcome = train("CoTBal D=precise", "EW", fails={"alone full a"}, plans=plans)
    assert len(plans) == 1
    assert outcome.failures == {"alone full a": "no luck"}
    assert outcome.missing == ["alone full a", "evaluate alone full a on a", "final CoTBal D=precise"]
    content = json.loads((project.out / "finals.json").read_text())["methods"]
    assert content["CoTBal D=precise"]["0"]["scores"] == {}
    assert set(content["EW"]["0"]["scores"]) == set("abc")
    outcome = train("CoTBal D=precise")
    assert (outcome.failures, outcome.missing) == ({}, [])
    # What was asked for before is kept.
    assert set(outcome.finals.models) == {"CoTBal D=precise", "EW"}


def test_a_final_model_that_fails_is_missing_and_the_others_are_kept(estimated):
    _, train = estimated
    outcome = train("EW", "TLA", "STL", fails={"final TLA"})
    assert outcome.missing == ["final TLA", *(f"evaluate final TLA on {task}" for task in "abc")]
    assert outcome.finals.missing("TLA") == ["a", "b", "c"]
    assert outcome.finals.models["TLA"][0].details["models"] == {"final TLA": None}
    assert outcome.finals.models["TLA"][0].details["rule"]["rule"] == "TLA"
    assert outcome.finals.scores("STL") == {"a": OWN + 0.1, "b": OWN, "c": OWN}
    assert len(outcome.finals.models["STL"][0].details["models"]) == 3
    assert outcome.finals.models["STL"][0].details["weights"] is None


def test_budget_and_weights_that_do_not_arrive_are_told_before_anything_runs(estimated, tmp_path):
    project, train = estimated
    plans = []
    with pytest.raises(
        ValueError, match=r"budget: .* 100 samples, the runs come to 210; ask for fewer methods"
    ):
        train("EW", changed=project.model_copy(update={"budget": "100 samples"}), plans=plans)
    command = {"command": content(tmp_path)["train"]["command"].replace("{weights}", "w.json")}
    bare = load_project(write(tmp_path, train=command))
    instantly(score)(bare, plan_of(bare, prepare(bare)), store_of(bare), None)
    for method in ("TLA", "CoTBal", "EW"):
        with pytest.raises(ValueError, match=rf"method {method} needs \{{weights\}} in it"):
            train(method, changed=bare, plans=plans)
    assert plans == []
    # A task alone has no weights, nor are there any where all are 1.
    assert train("STL", changed=bare).missing == []
    tasks = {**content(tmp_path)["tasks"], "chat": {"train": "chat.json", "weight": 1.0}}
    ones = load_project(write(tmp_path, train=command, tasks=tasks))
    instantly(score)(ones, plan_of(ones, prepare(ones)), store_of(ones), None)
    assert train("EW", changed=ones).missing == []


def test_methods_are_known_from_the_start_on_and_those_without_an_estimate_have_no_model(estimated, tmp_path):
    project, train = estimated
    with pytest.raises(AttributeError):
        train("CoTBal", "EW", plans="stopped here")
    assert [method.name for method in known_methods(project)] == ["EW", "CoTBal"]
    other = load_project(write(tmp_path, mini_ratio="1/4"))
    found = train("EW", changed=other).finals.models
    assert found["CoTBal"] == {}
    assert set(found["EW"][0].scores) == set("abc")


def test_final_models_are_trained_under_the_weights_of_weights_json_or_refused(
    estimated, tmp_path, monkeypatch
):
    """Others, written by hand or by a start with other options, were those of the models in name alone."""
    project, train = estimated
    file, finals_file, plans, pages = project.out / "weights.json", project.out / "finals.json", [], []
    used = TaskWeights(train("CoTBal").finals.models["CoTBal"][0].details["weights"])
    used.save(file)
    assert train("CoTBal").missing == []
    before = finals_file.read_bytes()
    monkeypatch.setattr("cotbal.cli.report._write", lambda *given: pages.append(given[-1]))
    told = (
        "weights.json: expected the weights of CoTBal, under which its final models are trained, got others"
    )
    for weights in (dict(used) | {"b": used["b"] + 0.01}, {"a": 1.0}):
        TaskWeights(weights).save(file)
        with pytest.raises(ValueError, match=rf"{told}, .*\(task '[bc]': .* there, .* here\); `cotbal run`"):
            train("CoTBal", plans=plans)
        compared = call("compare", tmp_path / "toy.yaml", "--no-run", "--baseline", "CoTBal")
        assert (compared.exit_code, compared.stdout) == (2, "")
        assert told in compared.stderr
        assert told in call("report", tmp_path / "toy.yaml").stderr
    assert (plans, pages, finals_file.read_bytes()) == ([], [None, None], before)
    # Others have weights of their own.
    finals_file.unlink()
    assert train("EW", "CoTBal T=1").missing == []


def test_scores_that_allow_no_weights_are_told_with_the_method(estimated, tmp_path):
    _, train = estimated
    flat = load_project(write(tmp_path, mini_ratio="1/4"))
    instantly(lambda name, task: 0.5)(flat, plan_of(flat, prepare(flat)), store_of(flat), None)
    with pytest.raises(ValueError, match="method one2all: "):
        train("one2all", changed=flat)


def test_rungs_that_fail_leave_their_task_out_and_a_budget_holds_for_them(estimated, monkeypatch):
    project, _ = estimated

    def climb(**how):
        monkeypatch.setattr(rungs, "work", instantly(score, **how))
        return run_rungs(project, lambda: contextlib.nullcontext(Notes()))

    outcome = climb(fails={"half probe b"})
    assert outcome.failures == {"half probe b": "no luck"}
    assert outcome.missing == ["half probe b", "evaluate half probe b on b"]
    assert set(outcome.rungs.scores) == {"a", "c"}
    # Half of b and the minis of a and c.
    project = project.model_copy(update={"budget": "60 samples"})
    with pytest.raises(ValueError, match="at most 60 samples, the runs come to 61; raise the budget"):
        climb()
    project = project.model_copy(update={"budget": "61 samples"})
    assert set(climb().rungs.scores) == {"a", "b", "c"}


def test_models_scored_on_other_clusters_are_not_compared_by_items(estimated):
    _, train = estimated
    assert train("EW").finals.clusters["a"] == [0, 1]
    assert train("TLA", clusters=(1, 2)).finals.clusters["a"] == []
    assert train("RLW").finals.clusters["a"] == []


def test_status_has_the_final_models_of_the_methods_that_the_scores_allow(estimated, tmp_path):
    """Weights whose estimate is to be done again took the models of equal weights from the list."""
    _, train = estimated
    train("EW", "CoTBal")
    with (tmp_path / "a.json").open("a") as file:
        file.write("\n")
    found = json.loads(call("status", tmp_path / "toy.yaml", "--json").stdout)["runs"]
    finals = {run["name"]: run["state"] for run in found if run["name"].startswith("final")}
    assert finals == {"final EW": "waiting"}
