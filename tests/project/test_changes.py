import json

from cotbal.project.changes import done_again, in_words
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from cotbal.project.outline import recorded, run_keys
from cotbal.project.recipe import plan_of
from cotbal.project.work import store_of
from cotbal.runs.store import Record
from tests.project.toy import content, write


def plan_and_store(folder, **changes):
    path = folder / "toy.yaml"
    path.write_text(json.dumps(content(folder, **changes)))
    project = load_project(path)
    return plan_of(project, prepare(project)), store_of(project)


def again(plan, store):
    return done_again(plan, recorded(plan, store), store.out)


def finish(plan, store, names):
    for name in names:
        key, spec = run_keys(plan)[name], plan[name]
        store.write(Record(key, {}, 0.0, 1.0, 0.0), function=spec.function, settings=spec.settings, name=name)


def test_only_what_was_finished_under_other_settings_is_told_with_what_differs(tmp_path):
    write(tmp_path)
    plan, store = plan_and_store(tmp_path, train={"command": "train {data} {output} --lr 1"})
    assert again(plan, store) == {}
    finish(plan, store, ["mini", "probe a", "evaluate mini on a"])
    (store.folder("half")).mkdir()
    (store.folder("half") / "result.json").write_text('{"name": "probe b"')
    assert again(plan, store) == {}

    now, store = plan_and_store(tmp_path, train={"command": "train {data} {output} --lr 2 --bf16"})
    found = again(now, store)
    changed = "command, '1' is '2 --bf16' now"
    # Of the evaluation nothing differs but its model.
    assert found == {"mini": [changed], "evaluate mini on a": [], "probe a": [changed]}
    line = in_words(found)
    assert line.startswith("finished under other settings and done again: mini, evaluate mini on a, probe a.")
    assert f"Changed: {changed}. The earlier" in line


def test_changed_data_and_a_new_task_are_told_by_name(tmp_path):
    write(tmp_path)
    plan, store = plan_and_store(tmp_path)
    finish(plan, store, ["probe b"])
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("a1", "x1"))
    tasks = content(tmp_path)["tasks"]
    more = {**tasks, "d": {"train": "chat.json", "validation": "val.jsonl"}}
    now, store = plan_and_store(tmp_path, tasks=more)
    assert again(now, store) == {"probe b": ["data of a, d (new)", "weights"]}


def test_tasks_in_another_order_are_told(tmp_path):
    """The records of a run stand in that order."""
    write(tmp_path)
    plan, store = plan_and_store(tmp_path)
    finish(plan, store, ["mini"])
    tasks = content(tmp_path)["tasks"]
    now, store = plan_and_store(tmp_path, tasks=dict(reversed(tasks.items())))
    assert again(now, store) == {"mini": ["the order of the tasks"]}


def test_a_word_that_is_new_or_gone_is_told_against_the_latest_result(tmp_path):
    write(tmp_path)
    for started, words in ((9.0, " --lr 1 --bf16"), (5.0, " --lr 3")):
        plan, store = plan_and_store(tmp_path, train={"command": "train {data} {output}" + words})
        key = run_keys(plan)["mini"]
        record = Record(key, {}, started, started + 1, 0.0)
        store.write(record, function="f", settings=plan["mini"].settings, name="mini")
    for words, told in (
        (" --lr 1", "command, '--bf16' is gone"),
        (" --lr 1 --bf16 --tf32", "command, '--tf32' is new"),
        (" --lr 2 --bf16", "command, '1' is '2' now"),
    ):
        now, store = plan_and_store(tmp_path, train={"command": "train {data} {output}" + words})
        assert again(now, store) == {"mini": [told]}


def test_a_few_names_and_reasons_are_shown():
    line = in_words({f"run {number}": [f"reason {number}"] for number in range(6)})
    assert "again: run 0, run 1, run 2, run 3 and 2 more. " in line
    assert "Changed: reason 0; reason 1; reason 2; reason 3. " in line
    assert "Changed: nothing that is recorded. " in in_words({"run": []})
