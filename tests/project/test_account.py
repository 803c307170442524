"""What finished runs have cost."""

import pytest

from cotbal.project.account import account
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.outline import recorded, run_keys
from cotbal.project.recipe import plan_of
from cotbal.project.state import StateFile
from cotbal.project.work import store_of
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record
from tests.project.toy import write
from tests.runs.fake_runs import Notes

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
