import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Event
from types import SimpleNamespace

import pytest

from cotbal.data import processes as processes_module
from cotbal.data.check.findings import KINDS
from cotbal.data.check.run import Check, Source
from cotbal.data.check.schema import Settings
from cotbal.data.check.sources import find_sources
from cotbal.data.check.tally import EDGES
from cotbal.data.inputs import Inputs
from tests.data.check.records import check, findings, question, record, write


@pytest.mark.parametrize(
    ("data", "record_number", "got"),
    [
        (b'[{"id": 1}, {"id": 2', 2, "the file ends inside it"),
        (b'[{"id": 1}', 2, "the file ends inside the array"),
        (b'{"id": 1,\n "a": 2}\n{"id": ', 2, "the file ends inside it"),
        (b'[{"id": 1}, 3]', 2, "expected an object"),
        (b"", 1, "got none"),
        (b"[]", 1, "got none"),
        ('[{"id": "ä"}]'.encode("latin-1"), 1, "invalid"),
        ('[{"id": 1}]'.encode("utf-16"), 1, "invalid start byte"),
        (b"[" * 100_000, 1, "expected an object"),
        (b'[{"id":' * 100_000, 1, "nested too deeply"),
    ],
)
def test_file_that_cannot_be_read_on_is_an_error_and_the_next_is_read(tmp_path, data, record_number, got):
    (tmp_path / "a.json").write_bytes(data)
    write(tmp_path / "b.json", [record("a?", "b")])
    found = Check([Source("train", tmp_path / name) for name in ("a.json", "b.json")], Inputs(), Settings())
    found.run()
    assert ("file", "a", record_number, "") in findings(found)
    # No "expected ..., got expected ...".
    assert all(not finding.got.startswith("expected") for finding in found.findings.first["file"])
    assert got in found.findings.first["file"][0].words()
    assert found.records[1] == 1
    first, second = found.content()["files"]
    assert (first["broken"], first["sha256"], second["broken"]) == (1, None, 0)
    assert second["sha256"] == hashlib.sha256((tmp_path / "b.json").read_bytes()).hexdigest()
    assert not any(name == "b" for _, name, _, _ in findings(found))


BROKEN = [
    (b'{"id": 4, "conv', "the line ends inside it"),
    (b'{"id": 4, "a": [1,', "the line ends inside it"),
    (b'{"id": 4, a: 1}', "expecting property name enclosed in double quotes (its character 11)"),
    (b"hello", "expected an object, got 'hello"),
    (b"[1, 2]", "expected an object, got '[1, 2]"),
    (b'{"id": "\xe4"}', "invalid continuation byte"),
    (b"\xff", "invalid start byte"),
]


@pytest.mark.parametrize(("line", "got"), BROKEN)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_lines_after_a_broken_one_are_read(tmp_path, line, got, name):
    texts = [json.dumps(record("a?", f"b {n}", id=n)).encode() for n in range(600)]
    texts[3] = texts[400] = line
    texts[9] = json.dumps(record("a?", "", id=9)).encode()
    (tmp_path / name).write_bytes(b"\n".join(texts))
    found = Check([Source("train", tmp_path / name)], Inputs(), Settings())
    found.run()
    assert sorted(findings(found)) == [
        ("empty-answer", "a", 10, "conversations[1].value"),
        ("line", "a", 4, ""),
        ("line", "a", 401, ""),
    ]
    assert all(got in each.words() for each in found.findings.first["line"])
    (file,) = found.content()["files"]
    assert (file["records"], file["broken"]) == (598, 2)
    assert file["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert sum(each["records"] for each in found.content()["tasks"]) == 598


def test_reading_of_an_array_stops_at_a_broken_record(tmp_path):
    texts = [json.dumps(record("a?", f"b {n}", id=n)) for n in range(9)]
    texts[3] = '{"id": 4, "conv'
    (tmp_path / "a.jsonl").write_text("[" + ",\n".join(texts) + "]")
    found = Check([Source("train", tmp_path / "a.jsonl")], Inputs(), Settings())
    found.run()
    assert findings(found) == [("file", "a", 4, "")]
    (file,) = found.content()["files"]
    assert (file["records"], file["broken"], file["sha256"]) == (3, 1, None)


def test_deep_nesting_is_no_crash(tmp_path):
    kinds = set()
    # Where Python stops reading depends on its version.
    for depth in (50, *range(880, 1010), *range(1450, 1510, 7), *range(9900, 10050, 7), 100_000):
        deep = "[" * depth + "]" * depth
        text = f'[{{"id": {deep}, "task": {deep}, "image": {deep}, "conversations": {deep}}}]'
        (tmp_path / "a.json").write_text(text)
        found = Check([Source("train", tmp_path / "a.json")], Inputs(), Settings())
        found.run()
        kinds |= set(found.findings.counts)
    assert kinds == {"file", "id", "task", "record"}


def test_several_give_the_same_findings_and_sizes_in_the_same_order(tmp_path, monkeypatch):
    (tmp_path / "cut.json").write_text('[{"id": 1}, {"id":')
    records = [
        record("a?", "" if n % 7 == 0 else f"b {n}", task=f"t{n % 5}", image=f"{n}.jpg") for n in range(2000)
    ]
    lines = [json.dumps(record(f"c {n}?", "d", task=None)) if n % 30 else "{" for n in range(600)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    paths = [tmp_path / "cut.json", write(tmp_path / "a.jsonl", records), tmp_path / "b.jsonl"]
    settings = Settings(file_tasks={"b.jsonl": "t0"})

    def told(workers):
        sources = [Source("train", path) for path in paths]
        found = Check(sources, Inputs(), settings, images=tmp_path, workers=workers)
        found.run()
        return found.content(), list(found.findings.lines())

    alone = told(1)
    # Threads in the place of processes, each of which would import torch.
    monkeypatch.setattr(processes_module, "ProcessPoolExecutor", threads)
    assert told(3) == alone
    assert len(alone[1]) == 2 + 286 + 2000 + 1 + 20


def threads(workers, context, start, arguments):
    return ThreadPoolExecutor(workers, initializer=start, initargs=arguments)


def test_process_of_a_crew_ends_when_its_parent_has(monkeypatch):
    ended, codes = Event(), Queue()
    monkeypatch.setattr(processes_module, "parent_process", lambda: SimpleNamespace(join=ended.wait))
    monkeypatch.setattr(processes_module.os, "_exit", codes.put)
    started = []
    processes_module._start(started.append, ("settings",))
    assert started == ["settings"]
    assert codes.empty()
    ended.set()
    assert codes.get(timeout=10) == 1


def test_missing_file_is_no_finding(tmp_path):
    with pytest.raises(FileNotFoundError):
        Check([Source("train", tmp_path / "a.json")], Inputs(), Settings()).run()


def test_accepted_kind_is_a_warning(tmp_path):
    found = check(tmp_path, {"train": [record("a?", "")]}, accepted=["empty-answer"])
    assert found.content()["errors"] == {}
    assert found.content()["warnings"] == {"empty-answer": 1}


def test_first_findings_are_kept_and_all_are_told(tmp_path):
    found = check(tmp_path, {"train": [record("a?", "", id=n) for n in range(50)]})
    assert found.findings.counts["empty-answer"] == len(findings(found)) - 49 == 50
    assert [each.record for each in found.findings.first["empty-answer"]] == list(range(1, 21))
    row = json.loads(next(found.findings.lines()))
    assert row == {
        **{"level": "error", "kind": "empty-answer", "file": str(tmp_path / "train.json"), "record": 1},
        **{"field": "conversations[1].value", "expected": "an answer", "got": "''"},
        "advice": KINDS["empty-answer"].advice,
    }


def test_sizes_are_by_split_and_task(tmp_path):
    train = [record("a b?", "c", "d?", "e f", image=f"{n}.jpg") for n in range(3)] + [
        record("x", "y", task="T")
    ]
    found = check(tmp_path, {"train": train, "validation": [question(1, "q?")]})
    first, second, third = found.content()["tasks"]
    assert (first["split"], first["task"], first["records"], first["with_picture"]) == ("train", "GQA", 3, 3)
    assert (first["turns"], first["positions"], first["valid"], first["ignored"]) == (6, 18, 9, 0.5)
    # Six words, three of them in answers, each in the bin that it begins.
    assert [place for place, count in enumerate(first["lengths"]) if count] == [EDGES.index(6)]
    assert [place for place, count in enumerate(first["answers"]) if count] == [EDGES.index(3)]
    assert (second["task"], second["records"], second["positions"]) == ("T", 1, 2)
    assert (third["split"], third["records"], third["measured"], third["ignored"]) == (
        "validation",
        1,
        0,
        None,
    )


def test_many_tasks_are_counted_together(tmp_path):
    found = check(tmp_path, {"train": [record(f"a {n}?", "b", task=f"t{n}") for n in range(1100)]})
    tasks = found.content()["tasks"]
    assert len(tasks) == 1001
    assert tasks[-1]["task"] == "(other tasks)"
    assert tasks[-1]["records"] == 100


def test_sources_of_folders_and_splits(tmp_path):
    (tmp_path / "mix" / "validation").mkdir(parents=True)
    # An older mixture's: it is not what mix.json says.
    for name in ("mixture.json", "validation/C.jsonl"):
        (tmp_path / "mix" / name).write_text("")
    tasks = {task: {"held_out": {"val": 1}} for task in ("B", "A")}
    mixed = {"schema_version": 1, "files": {"mixture.jsonl": {}, "mini.jsonl": {}}, "tasks": tasks}
    (tmp_path / "mix" / "mix.json").write_text(json.dumps(mixed))
    (tmp_path / "GQA").mkdir()
    splits = {
        "train": {"file": "train.json", "records": 1},
        "val": {"file": "val.jsonl"},
        "test_x": {"file": "test_x.jsonl"},
    }
    prepared = {"schema_version": 1, "task": "GQA", "splits": splits}
    (tmp_path / "GQA" / "prepared.json").write_text(json.dumps(prepared))
    found = find_sources([tmp_path / "mix", tmp_path / "GQA"], ["test=t.jsonl"])
    assert [(source.split, source.path.name) for source in found] == [
        *[("train", "mixture.jsonl"), ("train", "train.json")],
        *[("validation", "A.jsonl"), ("validation", "B.jsonl"), ("validation", "val.jsonl")],
        *[("test", "test_x.jsonl"), ("test", "t.jsonl")],
    ]
    for files, splits, message in (
        ([], [], "expected a file of records, got none"),
        ([], ["validation"], "expected SPLIT=FILE"),
        ([tmp_path], [], r"mix\.json or prepared\.json"),
    ):
        with pytest.raises(ValueError, match=message):
            find_sources(files, splits)
