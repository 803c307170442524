"""What finished runs have cost."""

import pytest

from cotbal.project.account import account
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.outline import Throughput, outline, recorded, run_keys
from cotbal.project.recipe import plan_of
from cotbal.project.state import StateFile
from cotbal.project.work import store_of
from cotbal.report.page_tables import runs_table
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record
from tests.project.toy import content, write
from tests.runs.fake_runs import Notes

NONE = Throughput(None, None)
SLURM = {"executor": "slurm", "slurm": {"hours": 1}}


@pytest.mark.parametrize(
    ("resources", "device", "each"),
    [
        ({"slots": 2}, "slot", 1),
        ({"gpus": 4, "gpus_per_run": 2}, "GPU", 2),
        ({**SLURM, "gpus_per_run": 8}, "GPU", 8),
        ({**SLURM, "gpus_per_run": 0}, "slot", 1),
    ],
)
def test_the_hours_of_finished_runs_are_those_of_all_their_gpus(tmp_path, resources, device, each):
    project = load_project(write(tmp_path, resources=resources))
    plan, store = plan_of(project, prepare(project)), store_of(project)
    keys = run_keys(plan)
    for name in ("mini", "evaluate mini on a"):
        store.folder(keys[name]).mkdir(parents=True)
        store.write(Record(keys[name], {"score": 0.5}, 0.0, 1800.0, 1.0), function="f", settings={})
    found = account(project, plan, store)
    assert found["totals"] == {
        **{"runs": 16, "finished": 2, "failed": 0},
        **{"device_hours": pytest.approx(each), "device": device, "again": 0},
    }
    mini, probe, *_ = found["trainings"]
    assert (mini["seconds"], mini["evaluated"], mini["evaluation_seconds"]) == (1800, 1, 1800)
    assert (probe["seconds"], probe["evaluations"], probe["evaluated"]) == (None, 3, 0)


def test_runs_that_were_tried_again_are_counted(tmp_path):
    """The seconds of a result are those of its last try; a later session does not forget the others."""
    project = load_project(write(tmp_path))
    plan, store = plan_of(project, prepare(project)), store_of(project)
    state = StateFile(project.out, Notes())
    for name, tries in (("mini", 2), ("probe a", 1)):
        key = run_keys(plan)[name]
        store.folder(key).mkdir(parents=True)
        state.opened(plan, recorded(plan, store), 1)
        for _ in range(tries):
            state.started(name)
        record = Record(key, {}, 0.0, 1.0, 1.0)
        store.write(record, function="f", settings={})
        state.finished(name, record)
    assert account(project, plan, store)["totals"]["again"] == 1
    StateFile(project.out, Notes()).opened(Plan([]), {}, 1)
    assert account(project, plan, store)["totals"]["again"] == 1
    # It is done again, and this time at once.
    StateFile(project.out, Notes()).opened(plan, {}, 1)
    assert account(project, plan, store)["totals"]["again"] == 0


def test_a_training_tells_of_its_evaluations_that_failed(tmp_path):
    project = load_project(write(tmp_path))
    plan, store = plan_of(project, prepare(project)), store_of(project)
    for name in ("mini", "probe b"):
        key = run_keys(plan)[name]
        store.folder(key).mkdir(parents=True)
        store.write(Record(key, {}, 0.0, 1.0, 1.0), function="f", settings={})
    state = StateFile(project.out, Notes())
    state.failed("evaluate mini on b", "no luck")
    state.failed("probe a", "no memory")
    found = account(project, plan, store)
    told = {training["name"]: (training["state"], training["reason"]) for training in found["trainings"]}
    assert told == {
        "mini": ("evaluation failed", "no luck"),
        "probe a": ("failed", "no memory"),
        "probe b": ("finished", None),
        "probe c": ("waiting", None),
    }
    assert found["totals"]["failed"] == 2


def test_a_model_that_exists_is_no_training_and_samples_are_those_of_the_plan(tmp_path):
    """Its evaluations stood among the trainings, their items as samples; samples counted each epoch."""
    (tmp_path / "ew").mkdir()
    (tmp_path / "ew" / "model.json").write_text("{}")
    cheap = {"mode": "cheap", "equal_model": "ew", "mini_ratio": "1/16", "seeds": [0, 3]}
    train = {**content(tmp_path)["train"], "epochs": 3.0}
    project = load_project(write(tmp_path, **cheap, train=train))
    data = prepare(project)
    plan, store = plan_of(project, data), store_of(project)
    key = run_keys(plan)["seed 3/evaluate equal on b"]
    store.folder(key).mkdir(parents=True)
    store.write(Record(key, {"score": 0.5}, 0.0, 60.0, 1.0), function="f", settings={})
    found = account(project, plan, store)["trainings"]
    planned = {
        run["name"]: run["samples"] for run in outline(project, data, plan, NONE)["runs"] if "samples" in run
    }
    models = {f"seed {seed}/equal": None for seed in (0, 3)}
    assert {training["name"]: training["samples"] for training in found} == planned | models
    equal = next(training for training in found if training["name"] == "seed 3/equal")
    assert equal == {
        **{"name": "seed 3/equal", "state": "given", "samples": None, "seconds": None, "reason": None},
        **{"evaluations": 3, "evaluated": 1, "evaluation_seconds": 60.0},
    }
    row = ["seed 3/equal", "given", "-", "-", "1 of 3", "1 min 0 s"]
    assert row in runs_table({"trainings": found}).rows
