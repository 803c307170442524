"""`cotbal plan`, `status`, `run --dry-run`: what starts nothing, and what is told before anything starts."""

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
