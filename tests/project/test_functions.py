"""Functions in the place of commands."""

import os
import sys

import pytest

from cotbal.project.functions import call, check_function
from cotbal.runs.processes import MARK, CommandError, alive
from tests.runs.fake_runs import alive as is_running

MODULE = """
import subprocess, sys
from pathlib import Path

left = []

def write(report, path, text="none"):
    Path(path).write_text(text)
    report(7)

def leave(report, path):
    left.append(subprocess.Popen(["sleep", "60"]))
    Path(path).write_text(str(left[0].pid))

def fail(report):
    raise RuntimeError("no luck")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module of its own, which the test leaves as it found everything."""
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"theirs_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "run").mkdir()
    yield tmp_path, f"python:{name}"
    sys.modules.pop(name, None)


def test_function_beside_the_file_gets_its_values_and_reports(place):
    folder, module = place
    done = []
    call(f"{module}:write path=out.txt 'text=a = b c'", folder / "run", folder, done.append)
    assert (folder / "out.txt").read_text() == "a = b c"
    assert done == [7]
    assert MARK not in os.environ


def test_what_a_function_has_started_ends_with_it(place):
    folder, module = place
    call(f"{module}:leave path=pid", folder / "run", folder, print)
    assert alive(folder / "run") == []
    assert not is_running(int((folder / "pid").read_text()))
    sys.modules[module.removeprefix("python:")].left[0].wait()


def test_error_of_a_function_keeps_its_traceback_and_a_missing_one_is_told_in_a_line(place):
    folder, module = place
    with pytest.raises(RuntimeError, match="no luck"):
        call(f"{module}:fail", folder / "run", folder, print)
    for name in (f"{module}:gone", "python:no_such_module:train"):
        with pytest.raises(CommandError, match=f"expected a function {name.removeprefix('python:')}"):
            call(name, folder / "run", folder, print)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python:", "expected python:package.module:function, got ''"),
        ("python:train.py a=b", r"expected python:package.module:function, got 'train.py'"),
        ("python:a.1b:c", r"expected python:package.module:function, got 'a.1b:c'"),
        ("python:a.b:c a-b=1", "python:a.b:c: expected name=value, got 'a-b=1'"),
        ("python:a.b:c {data}", "python:a.b:c: expected name=value, got '{data}'"),
        ("python:a.b:c data={data} data=x", "python:a.b:c: data stands twice"),
        ("python:a.b:c 'data={data}", "expected quotes that close"),
    ],
)
def test_what_is_no_function_is_refused(command, message):
    with pytest.raises(ValueError, match=message):
        check_function(command)


def test_commands_are_left_alone():
    assert check_function("python -m a b=") == "python -m a b="
