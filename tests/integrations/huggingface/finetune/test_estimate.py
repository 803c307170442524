"""The recipe's own commands: every word of them, and an estimate by them that is killed and goes on."""

import shlex
from pathlib import Path

import pytest

from cotbal.integrations.huggingface.finetune.options import parse
from tests.integrations.estimates import check_killed_estimate, recipe, write_project
from tests.integrations.huggingface.chat_world import make_world

# What a tiny model on a CPU needs in place of the recipe's words.
_TRAINING = {
    "{gpus}": "1",
    "--per_device_train_batch_size 8": "--per_device_train_batch_size 4",
    "--learning_rate 1e-5": "--learning_rate 2e-3",
    "--max_length 2048 --bf16 True": "--use_cpu True",
    "--gradient_checkpointing True --dataloader_num_workers 4": "",
    "--save_steps 500": "--save_steps 4",
}
_EVALUATION = {"{gpus}": "1", "--batch-size 16": "--batch-size 16 --max-new-tokens 6 --workers 0"}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
def test_every_word_of_the_training_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    command = recipe("huggingface.yaml")["train"]["command"]
    words = shlex.split(command.replace("{epochs}", "1").replace("{seed}", "3").translate({123: "", 125: ""}))
    assert words[:5] == ["torchrun", "--nproc_per_node", "gpus", "--master_port", "port"]
    assert words[5:7] == ["-m", "cotbal.integrations.huggingface.finetune"]
    options, args = parse([*words[7:], "--use_cpu", "True"])
    assert (options.model, options.data, options.weights) == ("base_model", ["data"], "weights")
    assert (args.output_dir, args.seed, args.save_total_limit) == ("output", 3, 1)
    assert not args.remove_unused_columns


@pytest.mark.full
@pytest.mark.timeout(900)
def test_an_estimate_that_is_killed_goes_on(tmp_path: Path) -> None:
    """With pictures, and with a task of text alone."""
    world = make_world(tmp_path / "world")
    project = write_project(
        tmp_path, recipe("huggingface.yaml"), world.vision, _TRAINING, _EVALUATION, world.images
    )
    check_killed_estimate(tmp_path, project, "cotbal: goes on from")
