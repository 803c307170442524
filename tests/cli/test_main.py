import json
import shutil
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import cotbal
from cotbal.cli.main import _EXTRAS, app
from tests.cli.commands import call, run_cotbal
from tests.imports import arrows


def commands():
    """The command itself, its verbs and theirs, by their words."""
    found = [((), get_command(app))]
    for words, command in found:
        found += [((*words, name), each) for name, each in getattr(command, "commands", {}).items()]
    return dict(found)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_help_of_a_verb_shows_an_example(words):
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert " ".join(["Example: cotbal", *words]) in shown.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run"], "when started again. A command that fails"),
        (["weights"], "over seeds too. Where lower"),
        (["prepare", "mix"], "The mini subsets are those that"),
    ],
)
def test_a_paragraph_of_the_help_fills_the_lines_of_the_terminal(words, text, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert text in CliRunner().invoke(app, [*words, "--help"]).stdout


def test_no_help_has_words_in_brackets_which_rich_takes_for_markup():
    for command in commands().values():
        for text in (command.help, *(getattr(option, "help", None) for option in command.params)):
            assert "[" not in (text or ""), command.name
    assert ("prepare", "generic") in commands()


def test_the_version_is_that_of_the_package():
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"cotbal {cotbal.__version__}\n")


def test_every_package_that_a_verb_imports_is_told_with_its_extra():
    _, others = arrows()
    of_verbs = [names for part, names in others.items() if part not in ("csrc_triton", "cotbal.integrations")]
    # Without the first two nothing runs, without typer no verb.
    assert set().union(*of_verbs) - {"torch", "triton", "typer"} <= set(_EXTRAS)


def test_recipes_are_shown_and_can_be_copied(tmp_path):
    shown = CliRunner().invoke(app, ["plan", "--recipes"]).stdout.split()
    for recipe in shown:
        shutil.copy(recipe, tmp_path)
    copied = sorted(path.name for path in tmp_path.iterdir())
    assert copied == ["digits.yaml", "huggingface.yaml", "llamafactory.yaml", "llava.yaml", "swift.yaml"]
    as_json = CliRunner().invoke(app, ["plan", "--recipes", "--json"]).stdout
    assert json.loads(as_json) == shown
    assert CliRunner().invoke(app, ["plan"]).exit_code == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys, cotbal\n"
        "heavy = {'transformers', 'sklearn', 'matplotlib', 'jinja2', 'numpy'} - set(sys.modules)\n"
        "import cotbal.cli.main\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["--version"], "cli"),
        ("rich", ["report", "--paper-tables"], "cli"),
        ("matplotlib", ["report", "results.json"], "report"),
        ("yaml", ["run", "estimate.yaml"], "estimate"),
        ("accelerate", ["doctor"], "hf"),
        ("deepspeed", ["doctor", "--deepspeed", "zero3.json"], "deepspeed"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(tmp_path, missing, arguments, extra):
    (tmp_path / "results.json").write_text('{"schema_version": 1}')
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments}\n"
        "from cotbal.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    # Before it may stand a warning of another package: an old NumPy's.
    *warnings, told = done.stderr.splitlines()
    assert told == f'cotbal: {missing} is not installed; pip install "path/to/cotbal[{extra}]"'
    assert not any("Traceback" in line for line in warnings), done.stderr


def test_windows_is_told(tmp_path):
    """Its Python has no fcntl."""
    code = (
        "import sys; sys.modules['fcntl'] = None; sys.argv[1:] = ['run', 'estimate.yaml']\n"
        "from cotbal.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cotbal: expected Linux or macOS, got Windows")


def test_debug_shows_the_traceback(tmp_path):
    done = run_cotbal("--debug", "plan", "missing.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["weights"], ["weights", "--nonsense"]])
def test_a_wrong_command_exits_with_2(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_reader_who_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "cotbal", "plan", "--recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_encoding_that_lacks_a_letter_ends_no_verb(tmp_path, monkeypatch):
    """As of a cluster whose locale is en_US.ISO-8859-1."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    (tmp_path / "table.csv").write_text("Q,A\nwhat,this\nwho,me\n")
    columns = ["--column", "question=Q", "--column", "answer=A"]
    table = ["prepare", "generic", *columns, "--task", "𠮷", "--annotations", tmp_path / "table.csv"]
    shown = run_cotbal(*table, "--out", "one", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(r"\U00020bb7:")
    # As a number of JSON, which that is not.
    found = call(*table, "--json", "--out", tmp_path / "two").stdout
    assert (found.isascii(), "𠮷" in str(json.loads(found))) == (True, True)
