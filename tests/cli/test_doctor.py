import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cotbal import doctor
from cotbal.cli.main import app
from cotbal.doctor.engine import compare_under_deepspeed
from cotbal.integrations.huggingface import levels
from cotbal.integrations.huggingface.loss_position import LogitShape


@pytest.fixture(autouse=True)
def _extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine compiled is none of these tests'."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))


def test_what_it_prints() -> None:
    done = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, ["doctor"])
    assert (done.exit_code, done.stderr) == (0, "")
    for text in ("transformers", ">= 4.52", "Device: ", "Level: linear", "ours, weighted", "All is well."):
        assert text in done.stdout


def test_json_is_all_that_goes_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the packages print that load a model."""

    loaded = doctor.load_model()

    def load_model(source: Path | None) -> Any:
        print("Setting ds_accelerator to cpu")
        return loaded

    monkeypatch.setattr("cotbal.doctor.load_model", load_model)
    done = CliRunner().invoke(app, ["doctor", "--level", "logits", "--json"])
    assert done.exit_code == 0
    assert "Setting" in done.stderr
    found = json.loads(done.stdout)
    assert found["comparison"]["level"] == "logits"
    assert found["comparison"]["agrees"] is True
    assert found["packages"]["torch"]["least"] == "2.4"
    assert (found["problems"], bool(found["devices"])) == ([], True)


def test_a_mismatch_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "accepted_shape", lambda _: LogitShape(scale=0.5))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "loss or gradients differ by more than 1e-05" in done.stdout
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"]


def test_a_model_without_a_loss_is_not_told_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = doctor.load_model()
    loaded.lm_head.weight.data.fill_(float("nan"))
    monkeypatch.setattr("cotbal.doctor.load_model", lambda _: loaded)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == [
        "the model's own loss is nan: look at its weights, or give another --batch"
    ]
    # JSON has no NaN, and other readers than Python's stop at it.
    assert "NaN" not in done.stdout
    assert json.loads(done.stdout)["comparison"]["passes"][0]["loss"] is None


def test_a_mistake_is_one_line_and_exit_code_2() -> None:
    done = CliRunner().invoke(app, ["doctor", "no-such-model"])
    assert done.exit_code == 2
    assert (
        done.stderr
        == "cotbal: no-such-model: no such folder or config.json; a model's name is not downloaded\n"
    )
    done = CliRunner().invoke(app, ["doctor", "--level", "fused"])
    assert done.exit_code == 2
    assert "level: expected one of auto, linear, logits" in done.stderr


@pytest.mark.parametrize("sureness", [2e4, 1e5])
def test_a_model_that_is_sure_of_the_batch_is_not_told_as_ours(
    sureness: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one is of records that it was trained on for long: torch's loss is rounding then, or exactly 0."""
    loaded = doctor.load_model()
    loaded.lm_head.weight.data.mul_(sureness)
    batch = doctor.random_batch(loaded)
    told = loaded(**{key: value for key, value in batch.items() if key != "labels"}).logits.argmax(-1)
    batch["labels"][:, 1:] = told[:, :-1]
    monkeypatch.setattr("cotbal.doctor.load_model", lambda _: loaded)
    path = doctor.save_batch(batch, tmp_path / "batch.safetensors")
    done = CliRunner().invoke(app, ["doctor", "--batch", str(path), "--json"])
    assert done.exit_code == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert "so near 0 that it is torch's rounding that differs: give another --batch" in problem


def test_a_lock_of_a_killed_compilation(tmp_path: Path) -> None:
    """DeepSpeed would wait for it: told, and the check under its engine is not begun; a new one is in use."""
    for name in ("old", "new"):
        (tmp_path / "extensions" / name).mkdir(parents=True)
        (tmp_path / "extensions" / name / "lock").touch()
    old = tmp_path / "extensions" / "old" / "lock"
    os.utime(old, (time.time() - 3600,) * 2)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem.startswith(f"{old}: left by a compilation that was killed")
    with pytest.raises(ValueError, match="DeepSpeed waits for it"):
        compare_under_deepspeed(tmp_path / "zero.json")
