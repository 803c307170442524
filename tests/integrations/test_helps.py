"""The commands of other trainers' packages tell their words where these are not installed."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from cotbal.integrations.huggingface.finetune.options import parse
from cotbal.integrations.llamafactory import entry, options
from cotbal.integrations.swift import plugging


def _absent(name: str) -> str:
    raise PackageNotFoundError(name)


def test_ms_swifts_generation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "swift", None)
    monkeypatch.delitem(sys.modules, "cotbal.integrations.swift.generate", raising=False)
    from cotbal.integrations.swift.generate import main

    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "--questions FILE" in capsys.readouterr().out
    monkeypatch.setattr(plugging, "version", _absent)
    assert main(["--model", "m", "--questions", "q", "--out", "o"]) == 2
    said = capsys.readouterr().err
    assert said == "cotbal: expected ms-swift, got none installed; pip install ms-swift==4.6.0\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "-h"]])
def test_llama_factorys_training(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m cotbal.integrations.llamafactory train [my.yaml]")
    fields = {f"cotbal_{name}" for name in options.Options.__dataclass_fields__}
    assert fields == set(options.KEYS)
    assert all(f"  {key}\n" in shown for key in fields)


@pytest.mark.parametrize(
    ("module", "unbuffered"),
    [
        ("cotbal.demo.files", ""),
        ("cotbal.integrations.huggingface.finetune", ""),
        ("cotbal.integrations.huggingface.generate", ""),
        ("cotbal.integrations.llamafactory", ""),
        ("cotbal.integrations.llava", ""),
        ("cotbal.integrations.llava.generate", ""),
        ("cotbal.integrations.swift", ""),
        ("cotbal.integrations.swift.generate", ""),
        # They end alike: argparse's words, and those that a command writes itself.
        ("cotbal.integrations.llamafactory", "1"),
        ("cotbal.integrations.swift", "1"),
    ],
)
def test_a_help_whose_reader_is_gone(module: str, unbuffered: str) -> None:
    """As `| head`, which ends after ten lines."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", module, "--help"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cotbal.integrations.huggingface.generate", ["torch", "transformers"]),
        ("cotbal.integrations.llava.generate", ["torch", "transformers"]),
        ("cotbal.integrations.swift.generate", ["torch", "transformers"]),
        ("cotbal.integrations.huggingface.finetune", ["peft", "transformers.training_args"]),
    ],
)
def test_words_are_told_without_what_takes_seconds(module: str, heavy: list[str]) -> None:
    code = (
        f"import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        f"except SystemExit as ended: print(ended.code, [name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 []\n")
    assert "--model" in done.stdout


def test_all_words_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help_all"])
    assert stopped.value.code == 0
    assert "--gradient_accumulation_steps" in capsys.readouterr().out
