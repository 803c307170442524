"""The state of runs beside their results, and evaluations that disagree about their items."""

import dataclasses
import json

import pytest

from cotbal.project.agreement import Watch
from cotbal.project.outline import run_keys
from cotbal.project.slurm.queue import QueuedJob
from cotbal.project.state import StateFile, run_states
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record, RunSpec, Store, locked
from tests.runs.fake_runs import Notes


def evaluation(name, task="a", data="d"):
    return RunSpec(name, "m:evaluate", {"task": task, "data": data, "name": name}, 10)


PLAN = Plan([evaluation("x"), evaluation("y"), evaluation("z")])
KEYS = run_keys(PLAN)


@pytest.fixture
def state(tmp_path):
    """A state file whose driver holds the folder."""
    with locked(tmp_path):
        file = StateFile(tmp_path, Notes())
        file.opened(PLAN, {}, 2)
        yield file


def states(folder, jobs=None):
    return {each["name"]: each for each in run_states(PLAN, Store(folder, {}), jobs)}


def finish(folder, name, **result):
    store = Store(folder, {})
    store.folder(KEYS[name]).mkdir(parents=True)
    record = Record(KEYS[name], result, 100.0, 130.0, 1.0)
    store.write(record, function="f", settings={})
    return record


def test_a_run_goes_its_way_and_the_other_listener_is_told(state, tmp_path):
    other = state._other
    waiting = {"name": "x", "key": KEYS["x"], "work": 0, "of": 10, "tries": 0, "state": "waiting"}
    assert states(tmp_path)["x"] == {**waiting, "seconds": None, "reason": None}
    state.started("x")
    state._written = 0.0
    state.advanced("x", 4)
    found = states(tmp_path)["x"]
    assert (found["state"], found["work"], found["tries"]) == ("running", 4, 1)
    assert 0 <= found["seconds"] < 60
    state._runs["x"]["since"] += 3600.0
    state._write()
    assert states(tmp_path)["x"]["seconds"] == 0, "the clock was set back"
    state.lost("x", "no memory")
    found = states(tmp_path)["x"]
    assert [found[key] for key in ("state", "work", "seconds", "reason")] == ["waiting", 0, None, "no memory"]
    state.started("x")
    assert (states(tmp_path)["x"]["tries"], states(tmp_path)["x"]["reason"]) == (2, None)
    state.failed("x", "no luck")
    found = states(tmp_path)["x"]
    assert [found[key] for key in ("state", "work", "tries", "reason")] == ["failed", 0, 2, "no luck"]
    state.queued("y", "12")
    state.finished("y", finish(tmp_path, "y", score=0.5))
    assert list(json.loads((tmp_path / "state.json").read_text())["runs"]) == ["x"]
    found = states(tmp_path)["y"]
    assert [found[key] for key in ("state", "work", "seconds", "score")] == ["finished", 10, 30.0, 0.5]
    state.noted("a word")
    state.waited()
    assert [event for event, _ in other.told] == [
        *("opened", "started", "advanced", "lost", "started", "failed", "queued", "finished", "noted")
    ]
    assert other.waits == 1


def test_progress_alone_is_written_once_a_second(state, tmp_path):
    state.started("x")
    for work in (1, 2, 3):
        state.advanced("x", work)
    assert states(tmp_path)["x"]["work"] == 0
    state._written -= 1.0
    state.advanced("x", 4)
    assert states(tmp_path)["x"]["work"] == 4


def test_without_a_driver_what_was_running_has_stopped(tmp_path):
    file = StateFile(tmp_path, Notes())
    file.started("x")
    file.queued("y", "12_1")
    file.failed("z", "no luck")
    found = states(tmp_path)
    assert [found[name]["state"] for name in "xyz"] == ["stopped", "stopped", "failed"]
    assert (found["x"]["work"], found["x"]["seconds"]) == (0, None)
    assert "job" not in found["y"]
    # A session begins afresh.
    StateFile(tmp_path, Notes()).opened(PLAN, {}, 1)
    assert {each["state"] for each in states(tmp_path).values()} == {"waiting"}


def test_a_later_session_counts_the_tries_of_an_earlier_one_of_the_same_run(tmp_path):
    file = StateFile(tmp_path, Notes())
    file.opened(PLAN, {}, 1)
    file.started("x")
    file.started("y")
    file.failed("y", "no luck")
    # A session of other runs alone, and one that ends before they start.
    for plan in (Plan([PLAN["z"]]), PLAN, PLAN):
        file = StateFile(tmp_path, Notes())
        file.opened(plan, {}, 1)
        assert {states(tmp_path)[name]["state"] for name in "xyz"} == {"waiting"}
        assert [states(tmp_path)[name]["tries"] for name in "xyz"] == [1, 1, 0]
    file.started("x")
    file.finished("x", finish(tmp_path, "x"))
    assert states(tmp_path)["x"]["tries"] == 2
    changed = Plan([evaluation("x"), evaluation("y", data="other"), evaluation("z")])
    file = StateFile(tmp_path, Notes())
    file.opened(changed, {"x": Record(KEYS["x"], {}, 0.0, 1.0, 1.0)}, 1)
    assert states(tmp_path)["x"]["tries"] == 2
    file.started("y")
    assert json.loads((tmp_path / "state.json").read_text())["runs"]["y"]["tries"] == 1
    # A job that goes on is the same try.
    for _ in range(2):
        file = StateFile(tmp_path, Notes())
        file.opened(changed, {}, 1)
        file.queued("z", "7")
        file.started("z")
        assert json.loads((tmp_path / "state.json").read_text())["runs"]["z"]["tries"] == 1


def test_jobs_of_a_cluster_need_no_driver(tmp_path):
    file = StateFile(tmp_path, Notes())
    for name in "xy":
        file.queued(name, "7")
    file.started("y")
    file.advanced("y", 3)
    file._write()
    jobs = {
        KEYS["x"]: QueuedJob("12_0", "PENDING", "Priority", "n"),
        KEYS["y"]: QueuedJob("12_1", "RUNNING", "None", "n"),
    }
    found = states(tmp_path, jobs)
    told = [[found[name][key] for key in ("state", "job", "job_state", "work")] for name in "xy"]
    assert told == [
        ["queued", "12_0", "PENDING (Priority)", 0],
        ["running", "12_1", "RUNNING", 3],
    ]
    with locked(tmp_path):
        assert [states(tmp_path)[name]["job"] for name in "xy"] == ["7", "7"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 2, "runs": {"x": {"state": "failed"}}}']
)
def test_a_state_that_cannot_be_read_says_nothing(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert {each["state"] for each in states(tmp_path).values()} == {"waiting"}


def test_a_disk_that_takes_no_state_stops_no_run(tmp_path):
    (tmp_path / "state.json").mkdir()
    StateFile(tmp_path, Notes()).started("x")
    assert (tmp_path / "state.json").is_dir(), "the disk took it, so nothing was tried"


def test_the_state_names_its_driver_and_version(state, tmp_path):
    state.started("x")
    content = json.loads((tmp_path / "state.json").read_text())
    assert (content["schema_version"], list(content["runs"])) == (1, ["x"])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"items": [1, 0]}, {"items": [1, 0, 1]}, "y has 3 items, x 2; no weights follow"),
        ({"items": [1, 0], "clusters": [0, 1]}, {"items": [1, 0]}, "y has other clusters than x; no weights"),
        ({"items": [1, 0], "clusters": [0, 1]}, {"items": [0, 0], "clusters": [0, 1]}, None),
        ({"items": None}, {"items": [1, 0]}, None),
    ],
)
def test_evaluations_of_other_items_are_told_at_once(tmp_path, first, second, words):
    for earlier in (False, True):
        folder = tmp_path / str(earlier)
        watch = Watch(folder, Notes())
        records = {"x": finish(folder, "x", **first), "y": finish(folder, "y", **second)}
        watch.opened(PLAN, records if earlier else {}, 1)
        for name, record in records.items():
            if not earlier:
                watch.finished(name, record)
        assert len(watch._other.about("opened")) == 1
        assert len(watch._other.about("finished")) == (0 if earlier else 2)
        notes = watch._other.about("noted")
        assert len(notes) == (words is not None)
        if notes:
            assert notes[0].startswith(words)
            assert f"{folder / 'runs' / KEYS['y']} and {folder / 'runs' / KEYS['x']}" in notes[0]


def test_many_earlier_evaluations_of_other_items_are_told_in_few_lines(tmp_path):
    plan = Plan([evaluation(name) for name in "abcdefg"])
    keys = run_keys(plan)
    records = {name: Record(keys[name], {"items": [1.0] * 3}, 0.0, 1.0, 1.0) for name in plan}
    records["a"].result["items"].append(1.0)
    watch = Watch(tmp_path, Notes())
    watch.opened(plan, records, 1)
    *notes, rest = watch._other.about("noted")
    assert [note.split(";")[0] for note in notes] == [f"{name} has 3 items, a 4" for name in "bcd"]
    assert rest.startswith("3 more evaluations have other items or clusters than the first of their task")
    assert rest.endswith(" ".join(keys[name] for name in "efg"))


def test_advice_on_an_evaluation_that_resumes_names_its_answers_too(tmp_path):
    resumes = [dataclasses.replace(PLAN[name], context={"resume": True}) for name in PLAN]
    watch = Watch(tmp_path, Notes())
    watch.opened(Plan(resumes), {}, 1)
    for size, name in enumerate(("x", "y"), start=2):
        watch.finished(name, Record(name, {"items": [0.0] * size}, 0.0, 1.0, 1.0))
    (note,) = watch._other.about("noted")
    assert f"and {tmp_path / 'runs' / 'x'} with its folder in {tmp_path / 'outputs'}, and start again" in note


def test_items_of_another_task_or_file_may_be_others(tmp_path):
    plan = Plan([evaluation("x"), evaluation("other task", task="b"), evaluation("other file", data="e")])
    watch = Watch(tmp_path, Notes())
    watch.opened(plan, {}, 1)
    for size, name in enumerate(plan, start=2):
        watch.finished(name, Record(name, {"items": [0.0] * size}, 0.0, 1.0, 1.0))
    assert watch._other.about("noted") == []
