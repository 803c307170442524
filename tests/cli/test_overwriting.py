"""What a command reads is never what it writes: it is refused before anything is computed."""

import json
import shlex

import pytest

from cotbal.data.inputs import Inputs
from cotbal.data.task_folder import TaskFolder
from tests.cli.commands import call
from tests.data.check.records import record, write
from tests.data.reading import everything


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("run,a,b\nmini,0.4,0.3\na,0.6,0.32\nb,0.44,0.7\n")
    for name in ("compare.csv", "items.json", "report.json", "compare.json", "pred.json"):
        (tmp_path / name).write_text("as it was")
    write(tmp_path / "train.json", [record("a?", "b")])
    return tmp_path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("weights a.csv --out a.csv", "--out: expected a place of its own, got a.csv, which is read"),
        ("weights a.csv --out ./x/../a.csv", "--out: expected a place of its own, got"),
        ("weights a.csv --items items.json --out items.json", "--out: expected a place of its own"),
        (
            "score --questions q.jsonl --predictions pred.json --scores pred.json",
            "--scores: expected a place",
        ),
        ("score --questions items.json --predictions p --upload items.json", "--upload: expected a place"),
        (
            "score --questions q --predictions p --upload u --fill items.json --upload items.json",
            "--upload: ",
        ),
        ("report a.csv --items report.json", "--out: expected a place of its own, got report.json"),
        ("compare compare.json", "--out: expected a place of its own, got compare.json, which is read"),
        ("compare compare.csv --items compare.json", "--out: expected a place of its own"),
        ("data check train.json --html train.json --records-only", "--html: expected a place of its own"),
        ("data check train.json --html items.json --records-only", "--html: expected the name of a page"),
        ("data check train.json --fix . --records-only", "--fix: expected a place of its own"),
    ],
)
def test_what_is_read_is_not_written_over(folder, line, told):
    before = everything(folder)
    done = call(*shlex.split(line))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert everything(folder) == before


def test_a_link_to_what_is_read_is_no_other_place(folder):
    (folder / "link.csv").symlink_to("a.csv")
    assert "which is read" in call("weights", "a.csv", "--out", "link.csv").stderr
    assert (folder / "a.csv").read_text().startswith("run,")


def test_two_outputs_have_places_of_their_own(folder):
    (folder / "in").mkdir()
    source = write(folder / "in" / "check.html", [record("a?", "b")])
    options = ("--records-only", "--fix", "out", "--html", "out/check.html")
    assert "which --html writes as well" in call("data", "check", source, *options).stderr


def test_a_page_replaces_a_page_alone(folder):
    page = folder / "page.html"
    page.write_text("my notes")
    command = ("data", "check", "train.json", "--records-only", "--html")
    assert "which is no HTML; name another" in call(*command, page).stderr
    assert page.read_text() == "my notes"
    page.write_text("")
    assert [call(*command, page).exit_code for _ in range(2)] == [0, 0]
    assert "<html" in page.read_text()


def test_copies_of_several_files_replace_none_of_them(folder):
    """The copy of one lies where another is."""
    (folder / "x" / "x").mkdir(parents=True)
    files = [write(folder / name, [record("a?", name)]) for name in ("x/a.json", "x/x/a.json")]
    before = everything(folder)
    done = call("data", "check", *files, "--records-only", "--fix", folder / "x" / "x")
    assert (done.exit_code, done.stdout) == (2, "")
    assert everything(folder) == before


@pytest.mark.parametrize("option", ["--items eval/mini/p.json", "--out truth.json", "--items truth.json"])
def test_what_is_collected_is_not_written_over(folder, option):
    runs = ("mini", "a", "b")
    for place, run in enumerate(runs):
        (folder / "eval" / run).mkdir(parents=True)
        answers = [{"id": n, "answer": "yes" if n <= place else "no"} for n in range(4)]
        (folder / "eval" / run / "p.json").write_text(json.dumps(answers))
    (folder / "truth.json").write_text(json.dumps([{"id": n, "answer": "yes"} for n in range(4)]))
    words = [f"--run {run}=eval/{run}" for run in runs]
    words += [f"--task '{task}: format=predictions from=p.json metric=EM truth=truth.json'" for task in "ab"]
    before = everything(folder)
    done = call("collect", *shlex.split(f"{' '.join(words)} {option}"))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert f"{option.split()[0]}: expected a place of its own" in done.stderr
    assert everything(folder) == before


def test_a_table_in_its_own_task_folder_is_not_written_over(folder):
    task = TaskFolder(folder / "data", "T", "json")
    task.train([record("a?", "b", task="T")], Inputs())
    task.finish("generic", 0, Inputs())
    before = everything(folder)
    table, columns = "data/T/train.json", ("--column", "question=id", "--column", "answer=task")
    done = call("prepare", "generic", "--annotations", table, "--task", "T", *columns)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--out: expected a place of its own, got data/T/train.json, which is read" in done.stderr
    assert everything(folder) == before
