"""docs/data.md: its commands are parsed by the command line, with every option that they use."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from cotbal.cli.prepare import app

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^cotbal prepare (.+)$", TEXT, re.MULTILINE)
VERBS = typer.main.get_command(app).commands


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_parsed(line):
    verb, *arguments = shlex.split(line)
    assert VERBS[verb].make_context(verb, arguments).params["out"] in (Path("data"), Path("mixture"))


def test_every_source_has_a_command_and_a_row():
    assert {line.split()[0] for line in COMMANDS} == set(VERBS)
    for verb in set(VERBS) - {"mix"}:
        assert f"| `{verb}` |" in TEXT
