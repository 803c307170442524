import json
from pathlib import Path

import peft
import pytest
from typer.testing import CliRunner

from cotbal.cli.main import app
from cotbal.doctor import load_model
from cotbal.integrations.huggingface import levels
from cotbal.integrations.huggingface.loss_position import LogitShape
from tests.cli.commands import run_cotbal
from tests.integrations.huggingface.level_cases import build


def test_what_it_prints(tmp_path: Path) -> None:
    done = run_cotbal("doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("transformers", ">= 4.52", "Device: ", "Level: linear", "ours, weighted", "All is well."):
        assert text in done.stdout


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_json_is_all_that_goes_to_stdout(tmp_path: Path) -> None:
    """Not what other packages print: the one that loads an adapter brings DeepSpeed's log along."""
    build("LlamaForCausalLM")[0].save_pretrained(tmp_path / "model")
    adapter = peft.get_peft_model(
        load_model(tmp_path / "model"), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    adapter.save_pretrained(tmp_path / "adapter")
    done = run_cotbal("doctor", tmp_path / "adapter", "--level", "logits", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
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
