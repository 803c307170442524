"""The command for a GPU on a CPU with tiny shapes: the same code but for the timer."""

import json
import math
import re
import runpy
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.bounds import check_bounds
from benchmarks.inputs import Case, LossInputs
from benchmarks.meters import make_meter
from benchmarks.plan import GPU, LIMIT, TINY, Item, make_plan
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.results import environment
from benchmarks.runner import Runner
from benchmarks.step import Reference

# Without compiling, which a CPU takes seconds for.
ONLY = ["--only", "cotbal", "cotbal kept", "cotbal min", "torch", "compact + torch"]


def run(tmp_path: Path, *arguments: str) -> int:
    return gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), *arguments, *ONLY])


def results(tmp_path: Path) -> dict[str, Any]:
    (path,) = tmp_path.glob("*/tiny.json")
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_every_timing_of_the_plan_is_taken_and_right(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    content = results(tmp_path)
    assert content["complete"]
    providers = {level: find_providers(level, names=tuple(ONLY[1:]))[0] for level in ("logits", "linear")}
    assert [result["key"] for result in content["results"]] == [
        item.key for item in make_plan(TINY, providers)
    ]
    for result in content["results"]:
        assert result["status"] == "ok", result
        assert result["milliseconds"] > 0
    assert content["ceilings"]["copy_bytes_per_s"] > 0
    assert check_bounds(content)


def test_a_dry_run_says_how_much_more_the_whole_grid_has(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for arguments in ["--dry-run"], ["--dry-run", "--full"]:
        assert gpu.main(arguments) == 0
        said.append([int(each) for each in re.findall(r"\d+", capsys.readouterr().out.splitlines()[-1])])
    ((taken, more), (whole,)) = said
    assert more > 0
    assert taken + more == whole


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--minutes", "0") == 3
    assert results(tmp_path)["results"] == []
    assert run(tmp_path) == 0
    before = results(tmp_path)["results"]
    capsys.readouterr()
    assert run(tmp_path) == 0
    assert results(tmp_path)["results"] == before
    assert "ms" not in capsys.readouterr().out.partition("bounds")[0].partition("4 N V")[0]


@pytest.mark.parametrize(
    ("loss", "status"),
    [
        (lambda inputs: inputs.features[0].float().sum() * 1e-3, "wrong"),
        (lambda inputs: inputs.features[0].float().mean() * torch.nan, "wrong"),
        (lambda inputs: 1 / 0, "failed"),
    ],
    ids=["another number", "NaN", "an exception"],
)
def test_a_loss_that_is_not_right_is_not_timed(tmp_path: Path, loss: Any, status: str) -> None:
    provider = Provider("bad", "logits", loss, "made up")
    runner = Runner(
        tmp_path / "r.json",
        make_meter("cpu"),
        {"logits": [provider]},
        {"environment": {}, "ceilings": {}},
    )
    items = [Item(Case("logits", 8, 33, dtype="float32"), "bad")]
    assert runner.run(items, time.monotonic() + 60, lambda line: None) == 0
    (result,) = runner.results.values()
    assert result["status"] == status
    assert "milliseconds" not in result
    # Another run takes it again, the rest of the same one does not.
    for goes_on in (False, True):
        again = Runner(
            tmp_path / "r.json", make_meter("cpu"), {}, {"environment": {}, "ceilings": {}}, goes_on=goes_on
        )
        assert len(again.results) == goes_on


def test_a_rival_that_hangs_is_a_failure_and_the_others_are_timed(tmp_path: Path) -> None:
    """It hangs in one process; another, which the first becomes, goes on with the rest."""
    script = """
        import sys, time
        from benchmarks import gpu, runner
        from benchmarks.provider import Provider
        find = gpu.find_providers
        def found(level, *arguments, **options):
            providers, absent = find(level, *arguments, **options)
            return [Provider("rival", level, lambda _: time.sleep(600), "made up"), *providers], absent
        gpu.find_providers, runner.LONGEST = found, 1.0
        gpu.main(sys.argv[1:])
    """
    arguments = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "torch"]
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "rival: given up after 1 s; going on in a new process" in done.stdout
    hung, *others = results(tmp_path)["results"]
    assert (hung["provider"], hung["status"], hung["message"]) == ("rival", "failed", "given up after 1 s")
    assert {(each["provider"], each["status"]) for each in others} == {
        ("torch", "ok"),
        ("bare products", "ok"),
    }


def test_the_process_ends_when_all_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What libraries do at its end would change its code, with the results whole."""

    def ended(code: int) -> None:
        raise KeyboardInterrupt(code)

    monkeypatch.setattr("os._exit", ended)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry-run", "--only", "torch"])
    with pytest.raises(KeyboardInterrupt, match=r"^0$"):
        runpy.run_path(gpu.__file__, run_name="__main__")
    assert "more with --full" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("where", ["the check", "the loss"])
def test_what_the_check_takes_is_not_said_of_a_loss(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def loss(inputs: LossInputs) -> torch.Tensor:
        return inputs.features[0].sum()

    if where == "the check":
        monkeypatch.setattr(Reference, "errors", full)
    provider = Provider("rival", "logits", full if where == "the loss" else loss, "made up")
    head = {"environment": {}, "ceilings": {}}
    runner = Runner(tmp_path / "r.json", make_meter("cpu"), {"logits": [provider]}, head)
    runner.run([Item(Case("logits", 8, 33, dtype="float32"), "rival")], math.inf, lambda line: None)
    (result,) = runner.results.values()
    told = (result["status"], "check in float64" in result["message"])
    assert told == (("failed", True) if where == "the check" else ("out of memory", False))


def test_another_code_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel that was changed has not the timings of before, which took hours and are not lost."""
    assert run(tmp_path) == 0
    kept = results(tmp_path)
    assert kept["environment"]["code"] == environment(torch.device("cpu"))["code"]
    monkeypatch.setattr("benchmarks.results._code", lambda: "changed")
    assert run(tmp_path, "--minutes", "0") == 3
    assert results(tmp_path)["results"] == []
    (before,) = tmp_path.glob("*/tiny.json.before")
    assert str(before) in capsys.readouterr().out
    assert json.loads(before.read_text()) == kept
    # A file without results is no loss.
    monkeypatch.setattr("benchmarks.results._code", lambda: "changed again")
    assert run(tmp_path, "--minutes", "0") == 3
    assert json.loads(before.read_text()) == kept


@pytest.mark.parametrize(
    ("arguments", "minutes"), [([], 7.5), (["--full"], math.inf), (["--full", "--minutes", "3"], 3.0)]
)
def test_only_the_plan_is_cut_off(arguments: list[str], minutes: float) -> None:
    assert gpu.minutes_of(gpu.parse(arguments)) == minutes


def test_it_runs_where_there_is_only_torch_and_triton(tmp_path: Path) -> None:
    """The command is for machines that are made ready in a minute."""
    code = (
        "import sys; from benchmarks import gpu; "
        f"gpu.main(['--device', 'cpu', '--tiny', '--out', {str(tmp_path)!r}, "
        "'--minutes', '0', '--only', 'cotbal']); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "torch" in loaded
    assert not loaded & {"transformers", "matplotlib", "typer", "rich", "pytest", "hypothesis", "tests"}


def test_the_plan_of_a_gpu_keeps_every_factor_within_the_limit() -> None:
    """With the rivals that install from PyPI; more of them cost the last factors, not the first."""
    names = {
        "logits": "cotbal|cotbal kept|torch|torch compiled|Liger|FLA|flash-attn|compact + torch",
        "linear": "cotbal|cotbal min|torch|torch compiled|torch chunked|Liger|CCE|CCE exact|TRL|FLA|"
        "compact + torch|compact + Liger",
    }
    providers = {
        level: [Provider(name, level, lambda inputs: inputs.upstream, "") for name in listed.split("|")]
        for level, listed in names.items()
    }
    items = make_plan(GPU, providers)
    assert len(items) <= LIMIT
    assert len({item.key for item in items}) == len(items)
    cases = {item.case for item in items if item.provider == "cotbal"}
    assert {case.vocabulary for case in cases if case.level == "logits"} == set(GPU.vocabularies)
    for level in ("logits", "linear"):
        own = {case for case in cases if case.level == level}
        assert {case.rows for case in own} == {2048, 4096, 8192, 16384, 32768}
        assert {case.share for case in own} == {0.05, 0.2, 1.0}
        assert {case.kind for case in own} == {"random", "peaked"}
        assert {case.upstream for case in own} == {1.0, 0.25}
    assert any(case.frozen_head for case in cases)
