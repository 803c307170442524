"""`cotbal data check` as a user runs it."""

import errno
import json
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from cotbal.cli import checking
from cotbal.cli.main import app
from tests.cli.commands import run_cotbal
from tests.data import publishers
from tests.data.check.records import question, record, write


def run(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for n in range(12):
        Image.effect_noise((40, 30), 50).save(tmp_path / "images" / f"{n}.png")
    train = [record("what?", f"number {n}", image=f"{n % 10}.png", id=n) for n in range(700)]
    train[3]["conversations"][1]["value"] = " "
    write(tmp_path / "train.json", train)
    write(tmp_path / "val.jsonl", [question(1, "What?", "11.png"), question(2, "WHAT?", "5.png")])
    publishers.word_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


def test_errors_are_shown_and_end_with_1(folder):
    options = ("--split", f"validation={folder / 'val.jsonl'}", "--images", folder / "images")
    result = run(folder / "train.json", *options)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert "error empty-answer: 1" in lines
    assert any(
        line.endswith("train.json: record 4, field 'conversations[1].value': expected an answer, got ' '")
        for line in lines
    )
    assert "error leaked-question: 1" in lines
    assert "warning leaked-picture: 1" in lines
    assert lines[-1] == "702 records, 11 pictures: 2 errors, 1 warning"
    assert any(line.endswith("words each, 1 to 3 ") for line in lines)
    assert "Without --tokenizer words were counted" in result.output
    accepted = run(folder / "train.json", *options, "--accept", "empty-answer", "--accept", "leaked-question")
    assert accepted.exit_code == 0


# Each process imports torch: seconds.
@pytest.mark.full
def test_bytes_are_the_same_from_two_runs_and_from_4_processes(folder):
    options = (
        "--images",
        "images",
        "--tokenizer",
        "tokenizer.json",
        "--json",
        "--split",
        "validation=val.jsonl",
    )
    runs = [
        run_cotbal("data", "check", "train.json", *options, "--workers", workers, cwd=folder)
        for workers in ("1", "1", "4")
    ]
    assert [done.returncode for done in runs] == [1, 1, 1]
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    content = json.loads(runs[0].stdout)
    assert content["errors"] == {"empty-answer": 1, "leaked-question": 1}
    assert [each["kind"] for each in content["findings"]] == [
        "empty-answer",
        "leaked-question",
        "leaked-picture",
    ]
    assert content["unit"] == "tokens"


def test_mistakes_of_the_user_end_with_2_and_one_line(folder):
    for arguments, message in (
        ([folder / "train.json"], "--images: expected the image folder of the training, or --records-only"),
        ([folder / "train.json", "--images", folder / "no"], "which is no folder"),
        ([folder / "none.json", "--records-only"], "none.json: no such file or directory"),
        (
            [folder / "train.json", "--records-only", "--accept", "x"],
            "--accept: expected one of file, line",
        ),
        ([folder / "train.json", "--records-only", "--tokenizer", folder], ""),
        (["--records-only"], "FILE: expected a file of records, got none"),
        (
            [folder / "train.json", "--records-only", "--file-task", "trian.json=GQA"],
            "--file-task: expected one of the files that are checked",
        ),
    ):
        result = run(*arguments)
        assert message in result.output
        assert result.exit_code == (2 if message else 1)


def test_task_of_a_file_is_that_of_its_records_which_name_none(folder):
    bare = {key: value for key, value in record("what?", "this").items() if key != "task"}
    for name in ("a", "b"):
        (folder / name).mkdir()
        write(folder / name / "train.jsonl", [bare, bare | {"channel": "C"}])
    files = [folder / name / "train.jsonl" for name in ("a", "b")]
    options = ("--records-only", "--json", "--task", "A", "--task", "C")
    words = ("--file-task", f"{files[0]}=A", "--file-task", "train.jsonl=B")
    content = json.loads(run(*files, *options, *words).output)
    assert [(each["task"], each["records"]) for each in content["tasks"]] == [
        *[("A", 1), ("C", 2)],
        ("(no task)", 1),
    ]
    (finding,) = (each for each in content["findings"] if each["kind"] == "task")
    assert (finding["file"], finding["record"]) == (str(files[1]), 1)
    assert finding["got"].startswith("'B'")


def test_broken_line_ends_with_1_and_is_not_lost_in_a_copy(folder):
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(record(f"{n}?", "a", id=n)) if n % 4 else "{" for n in range(1, 9)))
    result = run(path, "--records-only")
    assert result.exit_code == 1
    assert "error line: 2" in result.output.splitlines()
    assert result.output.splitlines()[-1] == "6 records, no picture opened: 2 errors, 0 warnings"
    assert run(path, "--records-only", "--accept", "line").exit_code == 0
    refused = run(path, "--records-only", "--accept", "line", "--fix", folder / "out")
    assert refused.exit_code == 2
    assert "--fix: expected files of which every record can be read, got errors of kind 'line' (2)" in (
        refused.output
    )
    assert not (folder / "out").exists()


def test_page_is_written_whole_and_with_the_same_bytes(folder):
    for name in ("a", "b"):
        options = ("--images", folder / "images", "--tokenizer", folder / "tokenizer.json")
        result = run(folder / "train.json", *options, "--html", folder / name / "check.html")
        assert result.exit_code == 1
        assert [path.name for path in (folder / name).iterdir()] == ["check.html"]
    html = (folder / "a" / "check.html").read_text()
    assert html == (folder / "b" / "check.html").read_text()
    assert html.count('src="data:image/jpeg;base64,') == 3


def test_mended_copies_are_written(folder):
    result = run(folder / "train.json", "--records-only", "--fix", folder / "mended")
    assert result.exit_code == 1
    assert "Wrote 1 files under" in result.output
    assert sorted(path.name for path in (folder / "mended").iterdir()) == [
        "changes.jsonl",
        "fixed.json",
        "train.json",
    ]
    refused = run(folder / "train.json", "--records-only", "--fix", folder)
    # Before anything is checked.
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--fix: expected a place of its own" in refused.stderr


@pytest.mark.parametrize("missing", [False, True])
def test_a_page_that_cannot_be_written_is_told_before_the_check(missing, tmp_path, monkeypatch):
    write(tmp_path / "train.json", [record("a?", "b")])
    monkeypatch.setattr(checking, "run_check", lambda *_: pytest.fail("checked first"))
    if missing:
        monkeypatch.setitem(sys.modules, "PIL", None)
        for name in ("cotbal.report.check_page", "cotbal.report.embed"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    page = tmp_path / "check.html"
    if not missing:
        page.mkdir()
    result = run(tmp_path / "train.json", "--records-only", "--html", page)
    told = "PIL is not installed; pip install" if missing else f"{page}: is a directory"
    assert (result.exit_code, told in result.output) == (2, True), result.output
    assert {path.name for path in tmp_path.iterdir()} <= {"train.json", "check.html"}


def test_page_and_mended_copies_are_written_where_the_outputs_reader_is_gone(tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    write(tmp_path / "train.json", [record("a?", "b")])
    monkeypatch.setattr(checking, "_print_tables", broken)
    out = tmp_path / "out"
    result = run(tmp_path / "train.json", "--records-only", "--html", out / "check.html", "--fix", out)
    assert result.exit_code == 1
    assert {"check.html", "train.json", "changes.jsonl"} <= {path.name for path in out.iterdir()}


def weighted(folder, text, *options):
    write(folder / "two.json", [record("a?", "b", task=task) for task in ("A", "B")])
    (folder / "weights.json").write_text(text)
    return run(folder / "two.json", "--records-only", "--weights", folder / "weights.json", *options)


def test_a_list_of_weights_has_its_tasks_from_the_options(folder):
    result = weighted(folder, "[1.0, 2.0]", "--task", "A", "--task", "B")
    assert result.exit_code == 0, result.output
    assert "error task: 1" in weighted(folder, "[1.0, 2.0]", "--task", "A", "--task", "C").output


@pytest.mark.parametrize("options", [(), ("--task", "A")])
def test_a_list_of_weights_without_a_task_for_each_names_the_option(folder, options):
    result = weighted(folder, "[1.0, 2.0]", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "weights.json: tasks: expected the names of the list's 2 weights" in result.stderr
    assert "; --task names them" in result.stderr


def test_the_file_of_a_rule_is_told_as_one(folder):
    rule = {"schema_version": 1, "rule": "DWA", "options": {"window": 25}, "fixed": {}, "tasks": ["A", "B"]}
    result = weighted(folder, json.dumps(rule))
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        "expected {task: weight}, got the rule 'DWA', which makes its weights in every step" in result.stderr
    )
    assert "--task" not in result.stderr
