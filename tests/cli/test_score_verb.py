import json
import shlex

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.project import recipe_files
from cotbal.project.job import read_score

QUESTIONS = [
    {"question_id": str(n), "image": "a.jpg", "text": "?", "answer": right, "task": "VQAv2"}
    for n, right in ((3, "red"), (1, "two"), (2, "no"))
]
ANSWERS = [{"question_id": n, "text": text} for n, text in ((1, "three"), (2, "No."), (3, "Red"))]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, lines in (
        ("q.jsonl", QUESTIONS),
        ("a.jsonl", ANSWERS),
        ("dev.jsonl", [{key: row[key] for key in row if key != "answer"} for row in QUESTIONS]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, ["score", "--predictions", "a.jsonl", *words])


def test_a_score_is_printed_and_written(files):
    done = call("--questions", "q.jsonl", "--scores", "s.json")
    assert done.exit_code == 0
    assert done.stdout.startswith("VQAv2: EM 0.6667 (3 items, rule=strict, strip=True")
    written = json.loads((files / "s.json").read_text())
    wanted = {"score": 2 / 3, "items": [1.0, 0.0, 1.0], "clusters": [0, 0, 0]}
    assert {key: written[key] for key in wanted} == wanted
    # All questions are on one picture, and an evaluation may be so.
    assert read_score(files / "s.json") == wanted
    shown = json.loads(call("--questions", "q.jsonl", "--option", "lower=no", "--json").stdout)
    assert (shown["metric"], shown["items"], shown["rules"]["lower"]) == ("EM", [0.0, 0.0, 0.0], False)


def test_questions_without_a_task_need_none_where_the_metric_is_given(files):
    rows = [{key: row[key] for key in row if key != "task"} for row in QUESTIONS]
    (files / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("--questions", "mine.jsonl", "--metric", "EM")
    assert done.stdout.startswith("mine: EM 0.6667"), done.output
    refused = call("--questions", "mine.jsonl")
    assert refused.exit_code == 2
    assert "name it by --task" in refused.output


def test_boxes_of_another_scale_are_refused_with_their_file(files):
    rows = [{"question_id": n, "answer": f"[0.{n}, 0.2, 0.{n + 1}, 0.5]"} for n in (1, 2, 3)]
    (files / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [{"question_id": n, "text": f"[{n}00, 200, {n + 1}00, 500]"} for n in (1, 2, 3)]
    (files / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = call("--questions", "boxes.jsonl", "--metric", "mIoU")
    assert done.exit_code == 2
    assert "a.jsonl, boxes.jsonl: mIoU: predictions: expected boxes on the references' scale" in done.output


def test_the_servers_file_is_written(files):
    done = call("--questions", "dev.jsonl", "--upload", "u.json")
    assert (done.exit_code, done.stdout) == (0, "Wrote u.json: 3 answers.\n")
    expected = [(3, "red"), (1, "three"), (2, "no")]
    assert json.loads((files / "u.json").read_text()) == [
        {"question_id": id, "answer": answer} for id, answer in expected
    ]
    (files / "all.json").write_text(json.dumps({"questions": [{"question_id": n} for n in range(5)]}))
    done = call("--questions", "dev.jsonl", "--upload", "u.json", "--fill", "all.json", "--json")
    assert json.loads(done.stdout) == {"upload": "u.json", "answers": 3, "empty": 2}
    assert len(json.loads((files / "u.json").read_text())) == 5


@pytest.mark.parametrize("name", ["huggingface.yaml", "llamafactory.yaml", "llava.yaml", "swift.yaml"])
def test_the_recipes_evaluation_is_understood(name):
    recipe = next(path for path in recipe_files() if path.name == name).read_text()
    command = yaml.safe_load(recipe)["evaluate"]["command"].partition("cotbal score ")[2]
    words = shlex.split(command.replace("{", "").replace("}", ""))
    parsed = typer.main.get_command(app).commands["score"].make_context("score", words).params
    assert {str(parsed[name]) for name in ("questions", "predictions", "scores", "task")} == {
        "data",
        "output/answers.jsonl",
        "scores",
        "task",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--questions", "dev.jsonl"], "not public: score mixture/validation, or write the server's file"),
        (["--questions", "none.jsonl"], "none.jsonl: no such file"),
        (["--questions", "q.jsonl", "--task", "GQA"], "line 1, field 'task': expected 'GQA', as --task says"),
        (["--questions", "q.jsonl", "--metric", "IoU"], "the paper's IoU is Acc@IoU"),
        (["--questions", "q.jsonl", "--fill", "x"], "--fill: expected --upload beside it"),
        (["--questions", "q.jsonl", "--upload", "u", "--scores", "s"], "--scores: expected no score beside"),
        (["--questions", "q.jsonl", "--option", "lower"], "--option: expected NAME=VALUE"),
        (["--questions", "q.jsonl", "--option", "truth=x"], "--option: expected NAME=VALUE"),
        (["--questions", "q.jsonl", "--option", "low=no"], "has no option 'low' (did you mean 'lower'?)"),
    ],
)
def test_a_mistake_is_one_line(files, words, said):
    done = call(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
