"""docs/data.md: its commands are parsed by the command line, with every option that they use."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from cotbal.cli.data import app as data_app
from cotbal.cli.prepare import app
from cotbal.data.check.findings import KINDS

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^cotbal prepare (.+)$", TEXT, re.MULTILINE)
VERBS = typer.main.get_command(app).commands


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_parsed(line):
    verb, *arguments = shlex.split(line)
    # typer 0.16 makes it a Path later.
    assert Path(VERBS[verb].make_context(verb, arguments).params["out"]) in (Path("data"), Path("mixture"))


def test_every_source_has_a_command_and_a_row():
    assert {line.split()[0] for line in COMMANDS} == set(VERBS)
    for verb in set(VERBS) - {"mix"}:
        assert f"| `{verb}` |" in TEXT


@pytest.mark.parametrize("line", re.findall(r"^cotbal data check (.+)$", TEXT, re.MULTILINE))
def test_check_is_parsed(line):
    command = typer.main.get_command(data_app).commands["check"]
    assert command.make_context("check", shlex.split(line)).params["file"]


def test_every_kind_of_finding_is_told_at_its_level():
    tables = TEXT.split("| errors | |")[1].split("| warnings | |")
    for level, table in zip(("error", "warning"), tables, strict=True):
        rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
        told = [kind for row in rows for kind in re.findall(r"`([\w-]+)`", row)]
        assert sorted(told) == sorted(kind for kind, each in KINDS.items() if each.level == level)
