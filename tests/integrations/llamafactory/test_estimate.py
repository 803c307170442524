"""An estimate by the recipe's own commands, killed and started again, and the words of these commands."""

import dataclasses
import json
import shlex
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

from tests.integrations.llamafactory.estimate import RECIPE, TASKS, start, write_project

_WAIT_SECONDS = 300
pytestmark = pytest.mark.timeout(900)


def test_an_estimate_that_is_killed_goes_on(world: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path, world / "llama")
    driver = start(tmp_path, "run", str(project))
    cut = _wait_for_a_checkpoint_beside_a_finished_run(tmp_path / "out")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    finished = _results(tmp_path / "out")
    assert finished
    assert cut not in finished
    for words in (["run", str(project)], ["train", str(project)]):
        driver = start(tmp_path, *words)
        printed, _ = driver.communicate()
        assert driver.returncode == 0, printed
    results = _results(tmp_path / "out")
    assert {key: results[key] for key in finished} == finished
    assert "Resuming training from" in (tmp_path / "out" / "runs" / cut / "log.txt").read_text()
    header, mini, *probes = (tmp_path / "out" / "scores.csv").read_text().split()
    assert header == "run,caption,vqa"
    assert [row.split(",")[0] for row in (mini, *probes)] == ["mini", "caption", "vqa"]
    # Each model knows what it was trained on, and of the rest little.
    assert all(float(score) < 0.6 for score in mini.split(",")[1:])
    assert all(float(row.split(",")[header.split(",").index(row.split(",")[0])]) > 0.9 for row in probes)
    weights = json.loads((tmp_path / "out" / "weights.json").read_text())["weights"]
    assert set(weights) == set(TASKS)
    assert weights["chat"] == 1.0
    final = json.loads((tmp_path / "out" / "finals.json").read_text())["methods"]["CoTBal"]["0"]
    assert final["weights"] == weights
    assert min(final["scores"].values()) > 0.9, final


def _wait_for_a_checkpoint_beside_a_finished_run(out: Path) -> str:
    """The key of a training that has written one, when another run is finished."""
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        finished = _results(out)
        for state in out.glob("outputs/*/checkpoint-*/trainer_state.json"):
            if finished and state.parts[-3] not in finished:
                return state.parts[-3]
        time.sleep(0.02)
    raise AssertionError("no training was caught between its first checkpoint and its end")


def _results(out: Path) -> dict[str, int]:
    """When each run's result was written, by key."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


def test_every_word_of_the_recipes_training_is_a_key() -> None:
    """Of LLaMA-Factory, read by its own parser, or of ours."""
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams.parser import _TRAIN_ARGS
    from omegaconf import OmegaConf

    from cotbal.integrations.llamafactory.options import take_options

    command: str = yaml.safe_load(RECIPE.read_text())["train"]["command"]
    words = shlex.split(command.replace("{", "").replace("}", ""))
    launch, module, words = words[:5], words[5:8], words[8:]
    assert launch == ["torchrun", "--nproc_per_node", "gpus", "--master_port", "port"]
    assert module == ["-m", "cotbal.integrations.llamafactory", "train"]
    keys = OmegaConf.to_container(OmegaConf.from_cli(words))
    options = take_options(keys)
    assert (options.data, options.weights) == ("data", "weights")
    fields = {field.name: field for kind in _TRAIN_ARGS for field in dataclasses.fields(kind)}
    assert set(keys) <= set(fields)
    assert keys["template"] in TEMPLATES
    assert all(isinstance(keys[key], float) for key in ("learning_rate", "warmup_ratio"))
