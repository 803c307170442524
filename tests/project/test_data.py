import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc

import pytest

from cotbal.project.config import load_project
from cotbal.project.data import prepare, write_mixture
from cotbal.project.subsets import largest_chosen
from tests.cli.commands import call
from tests.project.toy import SIZES, write


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path):
    return load_project(write(tmp_path))


def test_mini_subsets_have_their_share_and_records_of_their_task(project):
    data = prepare(project)
    assert {task: part.records for task, part in data.full.items()} == SIZES
    assert {task: part.records for (_, task), part in data.mini.items()} == {"a": 8, "b": 12, "c": 5}
    for (_, task), part in data.mini.items():
        (path,) = part.files
        with open(path) as stream:
            records = json.load(stream)
        assert {record["task"] for record in records} == {task}
        assert len({record["id"] for record in records}) == part.records
    assert data.validation["a"].records == 20


def test_second_time_reads_and_writes_nothing(project, monkeypatch):
    data = prepare(project)
    files = {path: path.stat().st_mtime_ns for path in project.out.rglob("*")}

    def fail(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("cotbal.project.data.read_records", fail)
    assert prepare(project) == data
    assert {path: path.stat().st_mtime_ns for path in project.out.rglob("*")} == files


def test_a_copy_on_a_disk_that_is_read_only_is_looked_at(project, monkeypatch):
    """For its status and its report; what is known of its files only saves time."""
    data = prepare(project)
    (project.out / "data" / "index.json").unlink()

    def refuse(path, content):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("cotbal.project.data.write_json", refuse)
    assert prepare(project) == data


def test_another_process_with_another_hash_seed_writes_the_same_bytes(project, tmp_path):
    prepare(project)
    expected = contents(project.out / "data" / "mini")
    other = load_project(write(tmp_path / "other"))
    code = (
        "import sys; from cotbal.project.config import load_project\n"
        "from cotbal.project.data import prepare\n"
        "prepare(load_project(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "LC_ALL": "C", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code, str(other.folder / "toy.yaml")], check=True, env=environment)
    assert contents(other.out / "data" / "mini") == expected


def test_subset_is_in_the_order_of_the_file_and_the_same_from_an_array_and_from_lines(tmp_path):
    value = {"a": {"train": "a.json"}, "b": {"train": "b.json"}}
    one = prepare(load_project(write(tmp_path, tasks=value))).mini[0, "a"]
    value["a"]["train"] = "a.jsonl"
    other = prepare(load_project(write(tmp_path, tasks=value))).mini[0, "a"]
    assert one.files != other.files
    numbers = []
    for part in (one, other):
        with open(part.files[0]) as stream:
            numbers.append([int(record["id"][1:]) for record in json.load(stream)])
    assert numbers[0] == numbers[1] == sorted(numbers[0])


def test_changed_data_make_another_subset_and_leave_the_old_one(project):
    before = prepare(project).mini[0, "a"]
    path = project.folder / "a.json"
    # Of the same size.
    path.write_text(path.read_text().replace("a1", "z1"))
    after = prepare(project).mini[0, "a"]
    assert after.sha256 != before.sha256
    assert after.files != before.files
    assert all(os.path.exists(file) for part in (before, after) for file in part.files)


@pytest.mark.parametrize("name", ["scores.csv", "plan.json", "data/index.json", "seed-7/weights.json"])
def test_a_file_of_another_origin_is_not_written_over(tmp_path, name):
    path = write(tmp_path, output=".", seeds=[3, 7])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"output: expected a new folder.* got .* with a {name} of another"):
        prepare(load_project(path))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("gone", ["", "plan.json", "data/index.json"])
def test_a_folder_of_an_estimate_takes_its_files_again(tmp_path, gone):
    path = write(tmp_path, output=".")
    assert call("plan", path).exit_code == 0
    (tmp_path / "scores.csv").write_text("run,a,b,c\n")
    (tmp_path / gone).unlink() if gone else None
    prepare(load_project(path))


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_mixture_is_its_parts_one_after_another(project, tmp_path, form):
    data = prepare(project)
    parts = [data.mini[0, "a"], data.full["b"]]
    text = write_mixture(tmp_path / "mix", parts, form).read_text()
    records = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert [record["task"] for record in records] == ["a"] * 8 + ["b"] * 96
    assert [record["id"] for record in records[8:]] == [f"b{i}" for i in range(96)]


def test_truncated_data_is_told_and_nothing_is_left_behind(project):
    path = project.folder / "b.jsonl"
    path.write_text(path.read_text()[:-10])
    with pytest.raises(ValueError, match=r"b.jsonl, record 96: the file ends inside it"):
        prepare(project)
    assert not (project.out / "data" / "mini").exists()


def test_file_that_changes_before_its_subset_is_written_leaves_none(project, monkeypatch):
    def change(*arguments):
        (project.folder / "a.json").write_text(json.dumps([{"id": i} for i in range(64)]))
        return largest_chosen(*arguments)

    monkeypatch.setattr("cotbal.project.data.largest_chosen", change)
    with pytest.raises(ValueError, match=r"a\.json: expected the file of .*it has changed since"):
        prepare(project)
    assert not list((project.out / "data" / "mini").glob("*"))


def test_record_of_another_task_leaves_no_half_subset(project):
    (project.folder / "a.json").write_text(json.dumps([{"id": i, "task": "z"} for i in range(64)]))
    with pytest.raises(ValueError, match=r"a\.json, record 1: a record says task 'z'"):
        prepare(project)
    assert not list((project.out / "data" / "mini").glob("*"))


def test_validation_and_test_files_of_another_kind_are_only_hashed(tmp_path):
    tasks = {task: {"train": f"{task}.json", "validation": "val.csv", "test": "val.csv"} for task in "ab"}
    evaluate = {"command": "score {model} {scores} {data}"}
    project = load_project(write(tmp_path, tasks=tasks, evaluate=evaluate))
    (tmp_path / "val.csv").write_text("question,answer\n1,2\n")
    data = prepare(project)
    facts = data.validation["a"]
    assert data.test["a", ""] == facts
    assert facts.records is None
    assert facts.sha256 == hashlib.sha256((tmp_path / "val.csv").read_bytes()).hexdigest()


@pytest.mark.parametrize("as_test", [False, True])
@pytest.mark.parametrize("again", [shutil.copy, os.link, os.symlink])
def test_a_training_file_under_another_name_is_no_evaluation_file(tmp_path, again, as_test):
    tasks = {"a": {"train": "a.json", "validation": "val.jsonl"}, "b": {"train": ["c.json", "b.jsonl"]}}
    tasks["a"] |= (
        {"test": {"near": "val.jsonl", "far": "held.jsonl"}} if as_test else {"validation": "held.jsonl"}
    )
    tasks["b"]["validation"] = "val.jsonl"
    evaluate = {"command": "score {model} {scores} {data}"}
    path = write(tmp_path, tasks=tasks, evaluate=evaluate)
    again(tmp_path / "b.jsonl", tmp_path / "held.jsonl")
    key = "test.far" if as_test else "validation"
    message = rf"tasks\.a: {key}: .*got .*held\.jsonl, the bytes of .*b\.jsonl, in train of b; hold"
    with pytest.raises(ValueError, match=message):
        prepare(load_project(path))
    assert not (tmp_path / "out" / "data" / "mini").exists()


def peak(folder, count):
    tasks = {"a": {"train": "a.jsonl"}, "b": {"train": "b.json"}}
    project = load_project(write(folder, tasks=tasks))
    with open(folder / "a.jsonl", "w") as lines, open(folder / "b.json", "w") as array:
        array.write("[")
        for i in range(count):
            text = json.dumps({"id": i, "conversations": [{"from": "human", "value": "x" * 200}]})
            lines.write(text + "\n")
            array.write(("," if i else "") + text)
        array.write("]")
    tracemalloc.start()
    try:
        data = prepare(project)
        assert sum(part.records for part in data.full.values()) == 2 * count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.full
def test_memory_does_not_grow_with_the_data(tmp_path):
    small, large = peak(tmp_path / "small", 10_000), peak(tmp_path / "large", 50_000)
    # Two chunks of text of 1 MiB and their bytes, and the counters of the subsets.
    assert large < 12 << 20
    assert large < 1.2 * small


def test_data_in_the_place_of_a_file_of_the_estimate_are_refused(tmp_path):
    path = write(tmp_path, output=".")
    tasks = json.loads(path.read_text())["tasks"]
    (tmp_path / "val.jsonl").rename(tmp_path / "items.json")
    project = load_project(
        write(tmp_path, output=".", tasks=tasks | {"a": {"train": "a.json", "validation": "items.json"}})
    )
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"output: expected a place of its own, got .*items\.json, which is"):
        prepare(project)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_inside_of_an_object_is_not_one_record(tmp_path, indent):
    """As VQAv2's {"questions": [...]}, which a plan priced as one item, and a list of records to train on."""
    path = write(tmp_path)
    wrapped = json.dumps({"info": {}, "questions": [{"question_id": n} for n in range(7)]}, indent=indent)
    (tmp_path / "val.json").write_text(wrapped)
    path.write_text(path.read_text().replace("val.jsonl", "val.json"))
    assert prepare(load_project(path)).validation["a"].records is None
    # A line is a record.
    (tmp_path / "val.jsonl").write_text('{"question_id": 1}\n')
    path.write_text(path.read_text().replace("val.json", "val.jsonl"))
    assert prepare(load_project(path)).validation["a"].records == 1
    (tmp_path / "chat.json").write_text(wrapped)
    told = r"chat.json: expected a JSON array .*, got one object with info, questions; write the list alone"
    with pytest.raises(ValueError, match=told):
        prepare(load_project(path))
