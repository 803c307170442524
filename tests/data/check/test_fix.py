import hashlib
import json

import pytest

from cotbal.data.check.fix import write_fixed
from cotbal.data.check.mend import mended
from cotbal.data.check.run import Check, Source
from cotbal.data.check.schema import Settings
from cotbal.data.inputs import Inputs
from tests.data.check.records import check, findings, question, record, write


def said(*turns, **fields):
    """A record of (role, text)."""
    return (
        record("a", "b") | {"conversations": [{"from": who, "value": text} for who, text in turns]} | fields
    )


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (
            said(("user", "q"), ("Assistant", "a")),
            said(("human", "q"), ("gpt", "a")),
            ["role renamed", "role renamed"],
        ),
        (
            said(("gpt", "hello"), ("human", "q"), ("gpt", "a"), ("human", "bye")),
            said(("human", "q"), ("gpt", "a")),
            ["taken out, before the first question", "taken out, a question without an answer"],
        ),
        (
            said(("human", "q"), ("gpt", "a"), image="1.jpg"),
            said(("human", "<image>\nq"), ("gpt", "a"), image="1.jpg"),
            ["<image> put in, for the picture"],
        ),
        (
            said(
                ("human", "<image>\n<image>\nq"),
                ("gpt", "a"),
                ("human", "<image>\nr"),
                ("gpt", "b"),
                image="1.jpg",
            ),
            said(("human", "<image>\nq"), ("gpt", "a"), ("human", "r"), ("gpt", "b"), image="1.jpg"),
            ["<image> taken out, there is one picture"] * 2,
        ),
        (
            said(("gpt", "hello"), ("human", "q"), ("gpt", "a"), image="1.jpg"),
            said(("human", "<image>\nq"), ("gpt", "a"), image="1.jpg"),
            ["taken out, before the first question", "<image> put in, for the picture"],
        ),
    ],
)
def test_what_can_be_meant_in_one_way_is_mended(before, after, changes):
    copy = json.loads(json.dumps(before))
    made, told = mended(before)
    assert made == after
    assert [each.change for each in told] == changes
    assert before == copy


@pytest.mark.parametrize(
    "fields",
    [
        record("q", "a", "r", "b", image="1.jpg"),
        said(("human", "<image>\nq"), ("gpt", "a")),
        said(("human", "q"), ("gpt", "a"), image=""),
        said(("human", "q"), ("gpt", "")),
        said(("human", "q"), ("human", "r"), ("gpt", "a")),
        said(("user", "q"), ("user", "r"), ("gpt", "a")),
        said(("user", "q")),
        said(("human", "q"), ("gpt", "an <image>"), image="1.jpg"),
        said(("human", "q"), ("system", "a")),
        said(("human", "q"), ("gpt", "a"), image=None),
        said(("human", "q"), ("gpt", 3)),
        {"conversations": "x"},
        {"id": 1},
        question(1, "q", "1.jpg"),
    ],
)
def test_what_is_right_or_cannot_be_told_stays(fields):
    assert mended(fields) == (fields, [])


def test_files_are_copied_and_changes_listed(tmp_path):
    train = [
        record("q", "a", image="1.jpg", id=1),
        record("q", "a", image="1.jpg", id=1),
        record("q", "a", image="1.jpg", id=2),
        said(("user", "q"), ("assistant", "ä"), id=3),
        record("q", "", id=4),
    ]
    (tmp_path / "in").mkdir()
    found = check(tmp_path / "in", {"train": train, "validation": [question(1, "z")]})
    content = write_fixed(found, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))
    assert made == [train[0], train[2], said(("human", "q"), ("gpt", "ä"), id=3), train[4]]
    # What needs nothing keeps its text.
    assert json.dumps(train[2]) in (tmp_path / "out" / "train.json").read_text()
    changes = [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").read_text().splitlines()]
    assert [(row["file"], row["record"], row["field"], row["after"]) for row in changes] == [
        ("train.json", 2, "", None),
        ("train.json", 4, "conversations[0].from", "human"),
        ("train.json", 4, "conversations[1].from", "gpt"),
    ]
    first, second = content["files"]
    assert (first["file"], first["records"], first["changed"], first["taken_out"]) == ("train.json", 4, 1, 1)
    assert (second["records"], second["changed"], second["taken_out"]) == (1, 0, 0)
    digest = hashlib.sha256((tmp_path / "out" / "train.json").read_bytes()).hexdigest()
    assert first["sha256"] == digest
    again = check(tmp_path / "out", {"train": made, "validation": [question(1, "z")]})
    assert findings(again) == [
        ("empty-answer", "train", 4, "conversations[1].value"),
        ("repeated-record", "train", 2, ""),
    ]
    write_fixed(again, tmp_path / "twice")
    assert (tmp_path / "twice" / "changes.jsonl").read_bytes() == b""


def test_repeats_are_taken_out_of_every_file(tmp_path):
    paths = [tmp_path / "in" / name for name in ("a.json", "b.jsonl", "c.json")]
    paths[0].parent.mkdir()
    for path, numbers in zip(paths, ([1, 2, 1], [3, 4], [2, 5, 3, 5]), strict=True):
        write(path, [record(f"{n}?", "a", id=n) for n in numbers])
    found = Check([Source("train", path) for path in paths], Inputs(), Settings())
    found.run()
    content = write_fixed(found, tmp_path / "out")
    assert [(each["records"], each["taken_out"]) for each in content["files"]] == [(2, 1), (2, 0), (1, 3)]
    assert [each["id"] for each in json.loads((tmp_path / "out" / "c.json").read_text())] == [5]


def test_record_goes_that_is_equal_to_one_before_it_which_is_not_the_first(tmp_path):
    (tmp_path / "in").mkdir()
    found = check(tmp_path / "in", {"train": [record("q", "a", id=n) for n in (1, 2, 2, 1, 3)]})
    write_fixed(found, tmp_path / "out")
    made = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [each["id"] for each in made] == [1, 2, 3]


def test_copy_of_a_link_has_its_name(tmp_path):
    # As a model hub's cache has it.
    for folder in ("blobs", "snapshot", "out"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "blobs" / "a1b2.json", [said(("user", "q"), ("gpt", "a"))])
    (tmp_path / "snapshot" / "train.json").symlink_to("../blobs/a1b2.json")
    found = Check([Source("train", tmp_path / "snapshot" / "train.json")], Inputs(), Settings())
    found.run()
    assert write_fixed(found, tmp_path / "out")["files"][0]["file"] == "train.json"
    assert (tmp_path / "out" / "train.json").is_file()
    with pytest.raises(ValueError, match="--fix: expected a place of its own"):
        write_fixed(found, tmp_path / "snapshot")


def test_ending_may_be_in_capitals(tmp_path):
    path = tmp_path / "in" / "TRAIN.JSONL"
    path.parent.mkdir()
    path.write_text(f'{{"broken"\n{json.dumps(said(("user", "q"), ("gpt", "a")))}\n')
    found = Check([Source("train", path)], Inputs(), Settings())
    found.run()
    assert (found.records, found.findings.counts["line"]) == ([1], 1)
    path.write_text(path.read_text().partition("\n")[2])
    again = Check([Source("train", path)], Inputs(), Settings())
    again.run()
    write_fixed(again, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "TRAIN.JSONL").read_text())["task"] == "GQA"


def test_originals_are_never_written_over(tmp_path):
    found = check(tmp_path, {"train": [record("q", "a")]})
    before = (tmp_path / "train.json").read_bytes()
    with pytest.raises(ValueError, match="--fix: expected a place of its own"):
        write_fixed(found, tmp_path)
    assert (tmp_path / "train.json").read_bytes() == before
    (tmp_path / "train.json").write_text('[{"id": ')
    broken = Check(found.sources, Inputs(), Settings())
    broken.run()
    with pytest.raises(ValueError, match=r"errors of kind 'file' \(1\)"):
        write_fixed(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_with_a_broken_line_is_refused_as_its_copy_would_lack_it(tmp_path):
    path = tmp_path / "in" / "train.jsonl"
    path.parent.mkdir()
    path.write_text(f'{json.dumps(said(("user", "q"), ("assistant", "a")))}\n{{"id"\n')
    found = Check([Source("train", path)], Inputs(), Settings(), accepted=["line"])
    found.run()
    assert found.content()["warnings"]["line"] == 1
    with pytest.raises(ValueError, match=r"errors of kind 'line' \(1\)"):
        write_fixed(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_that_is_cut_off_after_its_check_leaves_nothing_half_written(tmp_path):
    (tmp_path / "in").mkdir()
    found = check(tmp_path / "in", {"train": [record("q", "a", id=n) for n in range(9)]})
    path = tmp_path / "in" / "train.json"
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fixed.json").write_text("of an earlier run")
    with pytest.raises(ValueError, match="the file ends inside"):
        write_fixed(found, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".unfinished"]


def test_a_folder_of_another_origin_keeps_its_files(tmp_path):
    found = check(tmp_path, {"train": [record("q", "a")]})
    (tmp_path / "out").mkdir()
    for name in ("train.json", "changes.jsonl"):
        (tmp_path / "out" / name).write_text("mine")
        with pytest.raises(
            ValueError, match=f"--fix: expected a new folder, or one .* with a {name} of anoth"
        ):
            write_fixed(found, tmp_path / "out")
        assert (tmp_path / "out" / name).read_text() == "mine"
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "notes.txt").write_text("not in the way")
    # After a kill, and once more over its own.
    (tmp_path / "out" / ".unfinished").touch()
    (tmp_path / "out" / "train.json").write_text("half")
    for _ in range(2):
        write_fixed(found, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("train.json", "changes.jsonl"),
        *("fixed.json", "notes.txt"),
    }
