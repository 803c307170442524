import hashlib
import json
import shutil
from fractions import Fraction

import pytest
import yaml

from cotbal.data.generic import prepare_generic
from cotbal.data.mix import find_prepared, write_mix
from cotbal.project.config import load_project
from cotbal.project.data import prepare
from tests.data.reading import everything, inputs, rows, target
from tests.project.toy import content as toy

TASKS = {"VQAv2": 40, "GQA": 13, "ShareGPT": 9, "Mine": 3, "RefCOCO+-bbox": 5}


@pytest.fixture
def data(tmp_path):
    for task, size in TASKS.items():
        path = tmp_path / "tables" / f"{task}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [{"q": f"{task} {n}?", "a": f"a{n}", "i": f"{n}.jpg"} for n in range(size + 2)]
        path.write_text("\n".join(map(json.dumps, lines)))
        columns = {"question": "q", "answer": "a", "image": "i"}
        options = {"task": task, "columns": columns, "validation": 1, "test": 1}
        prepare_generic(path, target(tmp_path / "data"), inputs(), **options)
    return tmp_path / "data"


def records(path):
    return json.loads(path.read_text())


def counts(found):
    return {task: n for task in TASKS if (n := sum(record["task"] == task for record in found))}


def test_mixture_holds_every_record_once_and_leaves_refcoco_plus_out(data, tmp_path):
    content = write_mix(find_prepared(data), tmp_path / "mix", inputs())
    found = records(tmp_path / "mix" / "mixture.json")
    assert counts(found) == {"VQAv2": 40, "GQA": 13, "ShareGPT": 9, "Mine": 3}
    assert len({json.dumps(record) for record in found}) == 65
    assert list(content["tasks"]) == ["ShareGPT", "VQAv2", "GQA", "Mine"]
    assert content["tasks"]["VQAv2"] == {
        **{"records": 40, "turns": 40, "paper_thousands": 83, "mini": 1, "held_out": {"val": 1, "test": 1}},
    }
    asked = write_mix(find_prepared(data, ["RefCOCO+-bbox", "GQA"]), tmp_path / "other", inputs())
    assert list(asked["tasks"]) == ["GQA", "RefCOCO+-bbox"]


def test_minis_and_probes_are_those_of_algorithm_1(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs(), ratio=Fraction(1, 4))
    # A quarter, rounded half up: 40 -> 10, 13 -> 3, 3 -> 1. ShareGPT is fixed: in no mini, and has no probe.
    minis = {"VQAv2": 10, "GQA": 3, "Mine": 1}
    assert counts(records(tmp_path / "mix" / "mini.json")) == minis
    assert {path.stem for path in (tmp_path / "mix" / "probes").iterdir()} == set(minis)
    for task in minis:
        found = records(tmp_path / "mix" / "probes" / f"{task}.json")
        assert counts(found) == minis | {task: TASKS[task]}
        mini = records(tmp_path / "mix" / "mini" / f"{task}.json")
        for other in minis:
            if other != task:
                there = records(tmp_path / "mix" / "probes" / f"{other}.json")
                assert [record for record in there if record["task"] == task] == mini


def test_minis_are_those_that_a_plan_takes_from_the_same_files(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs(), ratio=Fraction(1, 4), seed=3)
    tasks = {
        task: {"train": str(data / task / "train.json"), "metric": "EM"} for task in ("VQAv2", "GQA", "Mine")
    }
    value = toy(tmp_path, tasks=tasks, mini_ratio="1/4", seeds=[3])
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(value))
    planned = prepare(load_project(tmp_path / "e.yaml"))
    for task in tasks:
        (path,) = planned.mini[3, task].files
        with open(path, "rb") as stream:
            assert stream.read() == (tmp_path / "mix" / "mini" / f"{task}.json").read_bytes()


def test_held_out_questions_are_beside_the_mixture(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs(), probes=False)
    (row,) = rows(tmp_path / "mix" / "validation" / "GQA.jsonl")
    assert row["task"] == "GQA"
    assert set(row) == {"question_id", "image", "text", "answer", "task"}
    assert (tmp_path / "mix" / "test" / "Mine.jsonl").read_bytes() == (
        data / "Mine" / "test.jsonl"
    ).read_bytes()
    assert not (tmp_path / "mix" / "probes").exists()


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_two_runs_give_the_same_bytes_and_the_hashes_are_theirs(data, tmp_path, form):
    for name in ("a", "b"):
        content = write_mix(find_prepared(data), tmp_path / name, inputs(), form=form)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    for name, file in content["files"].items():
        path = tmp_path / "a" / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        lines = path.read_text().splitlines()
        assert len(lines) == file["records"] + (2 if form == "json" else 0)


def test_file_that_changed_since_it_was_prepared_leaves_nothing_half_written(data, tmp_path):
    path = data / "GQA" / "train.json"
    path.write_text(path.read_text().replace("a3", "b3"))
    with pytest.raises(ValueError, match=r"GQA/train\.json: expected the file that was prepared"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert not [path for path in (tmp_path / "mix").rglob("*") if path.is_file()]


def test_older_mixture_without_its_mark_is_told_apart(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs())
    (data / "GQA" / "val.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"GQA/val\.jsonl: expected the file that was prepared"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert not (tmp_path / "mix" / "mix.json").exists()


def test_failed_mix_leaves_the_one_before(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs())
    before = everything(tmp_path / "mix")
    path = data / "GQA" / "train.json"
    path.write_text(path.read_text().replace("a3", "b3"))
    with pytest.raises(ValueError, match=r"GQA/train\.json: expected the file that was prepared"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert everything(tmp_path / "mix") == before


def test_mix_leaves_no_file_of_the_one_before(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "mix", inputs())
    (tmp_path / "mix" / "validation" / "answers.jsonl").write_text("mine")
    write_mix(find_prepared(data, ["VQAv2", "Mine"]), tmp_path / "mix", inputs(), form="jsonl")
    write_mix(find_prepared(data, ["VQAv2", "Mine"]), tmp_path / "new", inputs(), form="jsonl")
    new = everything(tmp_path / "new")
    assert everything(tmp_path / "mix") == new | {"validation/answers.jsonl": b"mine"}


@pytest.mark.parametrize("name", ["mixture.json", "mini/GQA.json", "test/GQA.jsonl"])
def test_a_folder_of_another_origin_keeps_its_files(data, tmp_path, name):
    (tmp_path / "mix" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "mix" / name).write_text("mine")
    (tmp_path / "mix" / "notes.txt").write_text("not in the way")
    before = everything(tmp_path / "mix")
    with pytest.raises(ValueError, match=f"--out: expected a new folder, or one .* with a {name} of another"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert everything(tmp_path / "mix") == before
    (tmp_path / "mix" / name).unlink()
    write_mix(find_prepared(data), tmp_path / "mix", inputs())


def test_a_mix_that_stopped_half_way_goes_on_in_its_folder(data, tmp_path):
    write_mix(find_prepared(data), tmp_path / "whole", inputs())
    path = data / "GQA" / "val.jsonl"
    questions = path.read_text()
    path.write_text(questions.replace("a", "b"))
    with pytest.raises(ValueError, match=r"GQA/val\.jsonl: expected the file that was prepared"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert (tmp_path / "mix" / "mixture.json").exists()
    assert not (tmp_path / "mix" / "mix.json").exists()
    path.write_text(questions)
    write_mix(find_prepared(data), tmp_path / "mix", inputs())
    assert everything(tmp_path / "mix") == everything(tmp_path / "whole")


def test_fixed_task_that_is_not_there_is_told(data, tmp_path):
    with pytest.raises(ValueError, match=r"--fixed: expected one of ShareGPT, .* got 'Sharegpt'"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs(), fixed=["Sharegpt"])
    content = write_mix(find_prepared(data, ["GQA"]), tmp_path / "mix", inputs(), fixed=None)
    assert content["tasks"]["GQA"]["mini"] == 1


@pytest.mark.parametrize("place", [".", "GQA"])
def test_a_mixture_within_prepared_data_is_refused(data, place):
    """The next mixture took its folders for unfinished tasks, and left the task of the folder out."""
    before = everything(data)
    with pytest.raises(ValueError, match="--out: expected a folder of its own, got that of prepared data"):
        write_mix(find_prepared(data), data / place, inputs())
    assert everything(data) == before
    for _ in range(2):
        write_mix(find_prepared(data), data / "mixture", inputs())


def test_names_that_need_one_file_are_refused(data, tmp_path):
    (data / "GQA").rename(data / "gqa")
    (data / "gqa" / "prepared.json").write_text(
        (data / "gqa" / "prepared.json").read_text().replace('"task": "GQA"', '"task": "vqav2"')
    )
    with pytest.raises(ValueError, match="tasks 'VQAv2' and 'vqav2': expected names that differ as files"):
        write_mix(find_prepared(data), tmp_path / "mix", inputs())


def test_task_that_is_not_finished_is_refused(data):
    (data / "GQA" / "prepared.json").unlink()
    with pytest.raises(ValueError, match=r"GQA: expected prepared\.json, got none: prepare it again"):
        find_prepared(data)


def test_task_in_two_folders_is_refused(data):
    # As a backup leaves it; the last one by name would be trained on.
    shutil.copytree(data / "GQA", data / "GQA.bak")
    with pytest.raises(ValueError, match=r"one folder for task 'GQA', got GQA and GQA\.bak; move one"):
        find_prepared(data)


def test_folders_that_are_no_tasks_are_passed_over(data):
    (data / ".ipynb_checkpoints").mkdir()
    write_mix(find_prepared(data), data / "mixture", inputs(), form="jsonl")
    assert [each.task for each in find_prepared(data)] == ["ShareGPT", "VQAv2", "GQA", "Mine"]


def test_task_that_is_not_asked_for_may_be_unfinished(data):
    (data / "GQA" / "prepared.json").unlink()
    assert [each.task for each in find_prepared(data, ["VQAv2"])] == ["VQAv2"]
    with pytest.raises(ValueError, match=r"GQA: expected prepared\.json, got none"):
        find_prepared(data, ["VQAv2", "GQA"])


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": 2, "task": "GQA", "splits": {"train": {"records": 1}}}']
)
def test_other_prepared_json_is_refused(data, text):
    (data / "GQA" / "prepared.json").write_text(text)
    with pytest.raises(ValueError, match=r"GQA/prepared\.json: expected"):
        find_prepared(data)


def test_unknown_task_is_told_with_those_that_there_are(data, tmp_path):
    with pytest.raises(ValueError, match=r"--task: expected one of GQA, .* got 'VQA'"):
        find_prepared(data, ["VQA"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected prepared tasks, got none"):
        find_prepared(tmp_path / "empty")
