import json
import shutil
from pathlib import Path

import pytest

import cotbal
from cotbal.cli import bench
from tests.cli.commands import call, run_cotbal


def test_a_suite_prints_its_plan_without_a_gpu(tmp_path: Path) -> None:
    done = run_cotbal("bench", "gpu", "--", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cotbal: logits, 8192 x 32000, 100% valid, random, upstream 1, bfloat16" in done.stdout


SUITE = """
import json, sys
print("a note of a library")
print(json.dumps({"arguments": sys.argv[1:]}, indent=1))
"""


def test_json_is_all_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_suite.py").write_text(SUITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(bench.SUITES, "step", "a_suite")
    done = call("bench", "step", "--json", "--", "--tiny")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"step": {"arguments": ["--tiny", "--json"]}}


def test_a_suite_without_json_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--json -- --help`, and `--json -- --dry-run` of the GPU's."""
    (tmp_path / "a_suite.py").write_text('print("usage: a_suite")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(bench.SUITES, "step", "a_suite")
    done = call("bench", "step", "--json", "--", "--help")
    assert done.exit_code == 2
    assert "--json: expected JSON of step, got 'usage: a_suite\\n'; leave --json out" in done.stderr


def test_an_unknown_suite_is_one_line(tmp_path: Path) -> None:
    done = run_cotbal("bench", "gpus", cwd=tmp_path)
    assert done.returncode == 2
    assert "suite: expected one of traffic" in done.stderr


def test_without_a_checkout_the_error_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    installed = tmp_path / "site"
    for package in ("cotbal", "csrc_triton"):
        source = Path(cotbal.__file__).parents[1] / package
        shutil.copytree(source, installed / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(installed))
    done = run_cotbal("bench", "traffic", cwd=tmp_path)
    assert done.returncode == 2
    assert "clone it" in done.stderr
