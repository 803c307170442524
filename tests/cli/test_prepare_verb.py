"""`cotbal prepare` as a user runs it."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from tests.cli.commands import run_cotbal
from tests.data import publishers
from tests.data.publishers import ref
from tests.data.reading import everything

SOURCES = ("vqav2", "gqa", "chartqa", "ocrvqa", "refcoco", "sharegpt4v", "sharegpt")


def run(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


@pytest.fixture
def release(tmp_path):
    """Every publisher's files, small."""
    publishers.vqav2(tmp_path / "vqav2", "train2014", [(n, n // 3, f"v{n}?", f"a{n}") for n in range(90)])
    publishers.vqav2(tmp_path / "vqav2", "val2014", [(500, 50, "v?", "a")])
    publishers.gqa(tmp_path / "gqa", "train", [(f"{n}", f"{n // 2}", "q?", "yes") for n in range(80)])
    publishers.chartqa(
        tmp_path / "chartqa", "train", [(f"{n}.png", "q?", "1") for n in range(40)], [("0.png", "r?", "2")]
    )
    publishers.ocrvqa(tmp_path / "ocrvqa" / "dataset.json", {f"{n}": (1, [("q?", "a")]) for n in range(40)})
    refs = [ref(n, n, "train", [(n, f"thing {n}")]) for n in range(40)] + [ref(99, 1, "testA", [(99, "x")])]
    sizes, boxes = dict.fromkeys(range(40), (64, 48)), {n: [1.0, 2, 30, 40] for n in range(100)}
    publishers.refcoco(tmp_path / "refcoco", refs, sizes, boxes)
    publishers.sharegpt4v(tmp_path / "sharegpt4v" / "c.json", [(f"{n}.jpg", f"A {n}.") for n in range(44)])
    publishers.sharegpt(tmp_path / "sharegpt" / "s.json", [[("human", "a"), ("gpt", "b")]] * 20)
    publishers.word_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


def prepare_all(release, out):
    extra = {
        "sharegpt4v": ["--validation", 2, "--test", 2],
        "sharegpt": ["--tokenizer", release / "tokenizer.json"],
    }
    files = {"sharegpt4v": "sharegpt4v/c.json", "sharegpt": "sharegpt/s.json"}
    for source in SOURCES:
        annotations = release / files.get(source, source)
        result = run(source, "--annotations", annotations, "--out", out, *extra.get(source, []))
        assert result.exit_code == 0, result.output


def test_all_sources_into_one_mixture_twice(release):
    for name in ("a", "b"):
        prepare_all(release, release / name)
        result = run("mix", "--data", release / name, "--out", release / f"mix-{name}")
        assert result.exit_code == 0, result.output
    assert everything(release / "a") == everything(release / "b")
    assert everything(release / "mix-a") == everything(release / "mix-b")
    content = json.loads((release / "mix-a" / "mix.json").read_text())
    sizes = {task: each["records"] for task, each in content["tasks"].items()}
    assert sizes == {
        **{"ShareGPT": 20, "ShareGPT4V": 40, "VQAv2": 30, "GQA": 40, "ChartQA": 40, "OCRVQA": 40},
        **{"RefCOCO-caption": 40, "RefCOCO-bbox": 40},
    }
    rows = [line.split() for line in result.output.splitlines()]
    assert ["VQAv2", "30", "83k", "90", "1", "1"] in rows
    assert ["RefCOCO-bbox", "40", "41k", "40", "1", "1"] in rows
    assert ["ShareGPT", "20", "41k", "20", "-", "0"] in rows
    assert ["total", "290", "475k", "391", "7", "7"] in rows


def test_no_room_for_temporary_files_is_one_line(tmp_path):
    with (tmp_path / "t.csv").open("w") as file:
        file.write("q,a\n")
        file.writelines(f"{number}?,{'word ' * 300}\n" for number in range(20_000))
    command = [sys.executable, "-m", "cotbal", "prepare", "generic", "--annotations", "t.csv"]
    command += ["--task", "T", "--column", "question=q", "--column", "answer=a"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 10000; exec "$@"', "sh", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch("cotbal: the temporary database: .* set TMPDIR to .*\n", done.stderr)
    assert not (tmp_path / "data").exists()


def test_mistakes_are_one_line_with_exit_code_2(release):
    path = release / "gqa" / "train_balanced_questions.json"
    path.write_text(path.read_text()[:2000])
    done = run_cotbal("prepare", "gqa", "--annotations", "gqa", "--out", "out", cwd=release)
    assert done.returncode == 2
    assert done.stderr.startswith("cotbal: gqa/train_balanced_questions.json, record ")
    assert done.stderr.count("\n") == 1
    assert not list(release.glob("out/**/train*"))


def test_records_that_are_left_out_are_listed(release):
    path = release / "chartqa" / "train" / "train_human.json"
    rows = json.loads(path.read_text())
    rows[6]["label"] = ""
    path.write_text(json.dumps(rows))
    result = run("chartqa", "--annotations", release / "chartqa", "--out", release / "out", "--skip-invalid")
    assert result.exit_code == 0
    assert "train           39 records, 40 turns" in result.output
    assert "left out: 1 invalid" in result.output
    assert "record 7, field 'label': expected a text that is not empty, got ''" in result.output


def test_own_table_by_its_columns(release):
    (release / "t.csv").write_text("Q,A,F\nwhat?,this,1.jpg\nwho?,that,2.jpg\n")
    columns = [part for pair in ("question=Q", "answer=A", "image=F") for part in ("--column", pair)]
    options = ["--annotations", release / "t.csv", "--task", "My task", "--out", release / "out", *columns]
    result = run("generic", *options, "--images", "own", "--format", "jsonl", "--json")
    (written,) = json.loads(result.output)
    assert written["splits"]["train"]["records"] == 2
    first = json.loads((release / "out" / "My_task" / "train.jsonl").read_text().splitlines()[0])
    assert first["image"] == "own/1.jpg"
    assert first["task"] == "My task"
    for wrong in ("colour=A", "question="):
        assert "expected FIELD=COLUMN" in str(run("generic", *options, "--column", wrong).output)
    assert run("generic", *options, "--column", "id=").exit_code == 0


def test_own_table_without_a_word_of_its_columns(tmp_path):
    (tmp_path / "t.csv").write_text("question,answer\nwhat?,this\n")
    told = run("generic", "--annotations", tmp_path / "t.csv", "--task", "T", "--out", tmp_path / "out")
    assert (told.exit_code, told.output) == (0, "T:\n  train           1 records, 1 turns\n")


@pytest.mark.parametrize(("validation", "test"), [(3, 0), (500, 0), (2, 1)])
def test_a_table_of_which_all_would_be_held_out(tmp_path, monkeypatch, validation, test):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("Q,A,F\nx,1,1.jpg\ny,2,2.jpg\nz,3,2.jpg\nw,4,3.jpg\n")
    table = ["--annotations", "t.csv", "--task", "R4", "--column", "question=Q", "--column", "answer=A"]
    options = [*table, "--column", "image=F", "--test", test, "--out", "d"]
    done = run("generic", *options, "--validation", validation)
    assert (done.exit_code, done.stderr) == (
        2,
        f"cotbal: --validation {validation} and --test {test}: expected pictures (or rows) left to train on, "
        "got all 3 held out; take fewer\n",
    )
    assert not (tmp_path / "d").exists()
    assert run("generic", *options, "--validation", 2 - test).exit_code == 0


def test_ratio_that_is_no_share_is_told(release):
    for ratio in ("2", "0", "x", "1/0"):
        result = run("mix", "--data", release / "a", "--out", release / "m", "--ratio", ratio)
        assert result.exit_code == 2
        assert "--ratio: expected a share above 0" in result.output


def test_a_mixture_without_the_papers_tasks_is_not_laid_beside_them(tmp_path):
    (tmp_path / "t.csv").write_text("Q,A\nx,1\ny,2\nz,3\n")
    table = ("--annotations", tmp_path / "t.csv", "--column", "question=Q", "--column", "answer=A")
    assert run("generic", "--task", "mine", *table, "--out", tmp_path / "d").exit_code == 0
    shown = run("mix", "--data", tmp_path / "d", "--out", tmp_path / "m").stdout
    assert "mine" in shown
    assert "ShareGPT" not in shown
    assert "paper" not in shown
