"""`cotbal plan`, `status`, `run --dry-run`: what starts nothing, and what is told before anything starts."""

import json
import subprocess
import sys

import pytest

from tests.cli.commands import call
from tests.project.toy import starts, write


@pytest.mark.parametrize("verb", [["plan"], ["status"], ["run", "--dry-run"]], ids=" ".join)
def test_what_only_looks_at_an_estimate_does_not_wait_for_torch(tmp_path, verb):
    path = write(tmp_path)
    code = "import sys; sys.modules['torch'] = None; from cotbal.cli.main import app; app(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *verb, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("verb", ["plan", "run", "status"])
def test_mistake_in_the_file_is_one_line_and_exit_code_2(tmp_path, verb):
    path = write(tmp_path, temprature=0.5)
    result = call(verb, path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"cotbal: {path}, line {line_of(path, 'temprature')}: temprature: unknown key; did you mean "
        f"'temperature'? Known keys: {result.stderr.partition('Known keys: ')[2]}"
    )
    assert not (tmp_path / "out").exists()


def line_of(path, word):
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if word in line)


@pytest.mark.parametrize("verb", ["plan", "run", "status"])
def test_data_that_cannot_be_read_are_one_line_and_exit_code_2(tmp_path, verb):
    path = write(tmp_path)
    text = (tmp_path / "c.json").read_text()
    (tmp_path / "c.json").write_text(text[: len(text) // 2])
    broken = call(verb, path)
    assert broken.exit_code == 2
    assert len(broken.stderr.splitlines()) == 1
    assert "c.json, record " in broken.stderr
    assert "the file ends inside" in broken.stderr
    assert not starts(tmp_path)
    (tmp_path / "c.json").unlink()
    missing = call(verb, path)
    assert (missing.exit_code, missing.stderr) == (
        2,
        f"cotbal: {tmp_path / 'c.json'}: no such file or directory\n",
    )


def test_a_training_file_of_two_tasks_is_told_before_anything_starts(tmp_path):
    """Their commands may tell them apart, as where each record has labels of several tasks."""
    path = write(tmp_path)
    content = json.loads(path.read_text())
    content["tasks"]["b"]["train"], content["tasks"]["chat"]["train"] = ["b.jsonl", "d/../a.json"], "b.jsonl"
    path.write_text(json.dumps(content))
    shown = call("plan", path)
    assert shown.exit_code == 0, shown.output
    assert "a, b train on one file, a.json: " in shown.stdout
    assert "b, chat train on one file, b.jsonl: " in shown.stdout
    assert "train on one file" not in call("plan", write(tmp_path / "apart")).stdout


@pytest.mark.parametrize("mode", ["full", "cheap", "no-probes"])
@pytest.mark.parametrize(("records", "least"), [(1, "full"), (5, "cheap"), (6, None)])
def test_a_probe_that_would_be_the_mini_run_again_is_refused(tmp_path, mode, records, least):
    """A mini subset of 1 of 1 sample, or 1 as a quarter of 5, shows no gain and no difficulty."""
    (tmp_path / "ew").mkdir()
    (tmp_path / "ew" / "model.json").write_text("{}")
    path = write(tmp_path, mini_ratio="1/16", mode=mode, equal_model="ew")
    (tmp_path / "c.json").write_text(json.dumps([{"id": number} for number in range(records)]))
    refused = {"full": ["full", "cheap"], "cheap": ["cheap"], None: []}[least]
    shown = call("plan", path)
    assert shown.exit_code == (2 if mode in refused else 0), shown.output
    told = f"tasks.c: expected more samples in its probe than in its mini subset, got 1 of {records} in both"
    assert (told in shown.stderr) == (mode in refused)
