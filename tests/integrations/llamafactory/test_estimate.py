"""An estimate by the recipe's own commands, killed and started again, and the words of these commands."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

from tests.integrations.estimates import check_killed_estimate, recipe, write_project

pytestmark = pytest.mark.timeout(900)
# What a tiny model on a CPU needs in place of the recipe's words.
_TRAINING = {
    "{gpus}": "1",
    "template=qwen2_vl": "template=default",
    "per_device_train_batch_size=8 gradient_accumulation_steps=4": "per_device_train_batch_size=4",
    "learning_rate=1e-5": "learning_rate=0.003",
    "bf16=true": "use_cpu=true",
    "save_steps=500": "save_steps=4",
    "preprocessing_num_workers=8 dataloader_num_workers=4": "disable_gradient_checkpointing=true",
}
_EVALUATION = {"{gpus}": "1", "--batch-size 16": "--batch-size 16 --max-new-tokens 6 --workers 0"}


def test_an_estimate_that_is_killed_goes_on(world: Path, tmp_path: Path) -> None:
    content = recipe("llamafactory.yaml")
    project = write_project(tmp_path, content, world / "llama", _TRAINING, _EVALUATION)
    check_killed_estimate(tmp_path, project, "Resuming training from")


def test_every_word_of_the_recipes_training_is_a_key() -> None:
    """Of LLaMA-Factory, read by its own parser, or of ours."""
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams.parser import _TRAIN_ARGS
    from omegaconf import OmegaConf

    from cotbal.integrations.llamafactory.options import take_options

    command: str = recipe("llamafactory.yaml")["train"]["command"]
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
