"""The launch module itself: LLaMA-Factory's own launcher starts it on every device, and a run goes on."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

from tests.integrations.llamafactory.runs import Case, run, train
from tests.ports import torchrun

_MODULE = ["-m", "cotbal.integrations.llamafactory", "train"]
pytestmark = pytest.mark.timeout(600)


def test_llamafactorys_launcher_starts_us_on_each_device(world: Path, tmp_path: Path) -> None:
    """As where there are several; ranks that torchrun starts by hand make the same steps."""
    case = Case("launcher", n_ranks=2, options={"ddp_backend": "gloo", "max_steps": 2})
    result = train(case, world, tmp_path / "by hand")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(case.settings(world, tmp_path / "out")))
    # A venv's torchrun, whatever this environment is stacked on.
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "torchrun"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    command.chmod(0o755)
    environment = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "PATH": f"{binaries}:/usr/bin:/bin"}
    result = run([*_MODULE, str(path), "seed=42"], tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert "Initializing 2 distributed tasks" in result.stdout + result.stderr
    assert _curves(tmp_path / "out") == _curves(tmp_path / "by hand" / "out")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_engines_make_the_steps_of_ddp(world: Path, tmp_path: Path, stage: int) -> None:
    losses = []
    for name, options in (
        ("DDP", {"ddp_backend": "gloo"}),
        ("ZeRO", {"deepspeed": str(tmp_path / "zero.json")}),
    ):
        config = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
        config |= {"gradient_clipping": "auto", "zero_optimization": {"stage": stage}}
        (tmp_path / "zero.json").write_text(json.dumps(config))
        case = Case(name, n_ranks=2, options=options)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(case.settings(world, tmp_path / name)))
        result = run([*torchrun(2), *_MODULE, str(path)], tmp_path)
        assert result.returncode == 0, result.stderr
        losses.append([each["loss"] for each in _curves(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6), losses


def test_a_resumed_run_equals_the_unbroken_one(world: Path, tmp_path: Path) -> None:
    """Under a rule, whose state is in the checkpoint."""
    rule = {"cotbal_weights": None, "cotbal_rule": "dwa", "cotbal_rule_options": {"window": 1}}
    case = Case("resume", options={"save_strategy": "steps", "save_steps": 2, "max_steps": 4, **rule})
    result = train(case, world, tmp_path)
    assert result.returncode == 0, result.stderr
    whole = _curves(tmp_path / "out")
    assert len({each["task_weight/vqa"] for each in whole}) > 1, "the rule's weights never change"
    # As after a kill: the checkpoint is what LLaMA-Factory finds in the output folder.
    shutil.move(tmp_path / "out" / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    shutil.move(tmp_path / "checkpoint-2", tmp_path / "out" / "checkpoint-2")
    # The next was being written: its state comes last.
    (tmp_path / "out" / "checkpoint-4").mkdir()
    shutil.copy(tmp_path / "out" / "checkpoint-2" / "model.safetensors", tmp_path / "out" / "checkpoint-4")
    # A full disk: its state is there, and empty.
    shutil.copytree(tmp_path / "out" / "checkpoint-2", tmp_path / "out" / "checkpoint-3")
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").write_text("")
    result = run([*_MODULE, str(tmp_path / "my.yaml")], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "checkpoint-2" in result.stdout + result.stderr
    assert _curves(tmp_path / "out") == whole


@pytest.mark.full
def test_a_training_that_is_stopped_has_not_ended(world: Path, tmp_path: Path) -> None:
    """As SIGTERM does under enable_jit_checkpoint: its code was 0, and its model saved."""
    script = tmp_path / "stopped.py"
    script.write_text(
        "import sys\n"
        "from llamafactory.train import tuner\n"
        "from cotbal.integrations.llamafactory.entry import main\n"
        "class Stops(tuner.LogCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        super().on_step_end(args, state, control, **kwargs)\n"
        "        control.should_training_stop = control.should_save = state.global_step == 2\n"
        "tuner.LogCallback = Stops\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    path = tmp_path / "my.yaml"
    path.write_text(
        yaml.safe_dump(Case("", options={"enable_jit_checkpoint": True}).settings(world, tmp_path / "out"))
    )
    result = run([str(script), "train", str(path)], tmp_path)
    assert result.returncode == 1, result.stderr
    assert "expected 4 steps, got 2" in result.stderr
    assert f"it goes on from {tmp_path / 'out' / 'checkpoint-2'}" in result.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()
    result = run([*_MODULE, str(path)], tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(_curves(tmp_path / "out")) == 4


def _curves(out: Path) -> list[dict[str, Any]]:
    """The losses and the tasks' curves of each step."""
    by_step: dict[int, dict[str, Any]] = {}
    for each in json.loads((out / "trainer_state.json").read_text())["log_history"]:
        kept = {key: value for key, value in each.items() if key == "loss" or key.startswith("task_")}
        by_step.setdefault(each["step"], {}).update(kept)
    return [by_step[step] for step in sorted(by_step)]
