"""Two ranks train as one under DDP, ZeRO and FSDP2, one rank's batch with pictures, the other's without."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import is_torchvision_available

from cotbal.integrations.huggingface.chat_template import kind_of
from tests.integrations.huggingface.chat_world import World, make_world
from tests.integrations.huggingface.equality.stacks import CONFIGURATIONS
from tests.integrations.huggingface.finetune.vision_families import VISION_FAMILIES
from tests.integrations.huggingface.finetune.world import GROUPED, mixture, run, words, write
from tests.ports import torchrun

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]
_RUNNER = Path(__file__).with_name("sharded.py")
_TOP = Path(__file__).parents[4]
_OPTIONS = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0, "max_steps": 3}
_OPTIONS |= {"save_strategy": "no", "per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All records with a picture first: two ranks' batches differ in each step but one."""
    records = mixture()
    return write(tmp_path_factory.mktemp("records"), [*records[::2], *records[1::2]])


@pytest.fixture(scope="module")
def alone(world: World, given: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What one process makes of two accumulated batches."""
    out = tmp_path_factory.mktemp("alone") / "out"
    options = {**_OPTIONS, "gradient_accumulation_steps": 2}
    assert run([*given, *words(world, world.vision, out, **options)]) == 0
    return parameters(out)


def parameters(folder: Path) -> dict[str, Tensor]:
    model = kind_of(AutoConfig.from_pretrained(folder)).model.from_pretrained(folder)
    return {name: value.detach() for name, value in model.named_parameters()}


def names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def engine(stack: str, folder: Path) -> dict[str, Any]:
    """The words that ask for it."""
    if stack.startswith("zero"):
        stage = int(stack[4:])
        content = json.loads((CONFIGURATIONS / f"zero{max(stage, 2)}.json").read_text())
        content["gradient_clipping"] = 0.0
        content["zero_optimization"]["stage"] = stage
        # Small ones, as else a tiny model is one bucket, its parameters never sharded.
        content["zero_optimization"]["reduce_bucket_size"] = 1000
        if stage == 3:
            content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "zero.json").write_text(json.dumps(content))
        configured = json.dumps({"use_configured_state": True})
        return {"deepspeed": folder / "zero.json", "accelerator_config": configured, "use_cpu": False}
    if stack == "fsdp2":
        # With checkpoints of a file for each rank.
        content = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
        return {"fsdp": "full_shard", "fsdp_config": json.dumps(content)}
    return {"ddp_backend": "gloo"}


def start(
    given: Sequence[str], world: World, stack: str, out: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """What two ranks say and end with."""
    asked = words(world, world.vision, out, **{**_OPTIONS, **engine(stack, out.parent / stack), **options})
    runner = ["-m", "cotbal.integrations.huggingface.finetune"]
    if stack != "ddp":
        runner = [str(_RUNNER), "fsdp" if stack == "fsdp2" else "deepspeed"]
    return subprocess.run(
        [sys.executable, *torchrun(2), *runner, *given, *asked],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(_TOP)},
    )


def both(given: Sequence[str], world: World, stack: str, out: Path, **options: Any) -> str:
    """What two ranks print."""
    ended = start(given, world, stack, out, **options)
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert ended.stdout.count("cotbal: 12 records") == 1
    return ended.stdout


@pytest.mark.parametrize("stack", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_two_ranks_train_as_one(
    stack: str, alone: dict[str, Tensor], world: World, given: Sequence[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    both(given, world, stack, out)
    assert names(out) == names(world.vision)
    for name, value in parameters(out).items():
        torch.testing.assert_close(value, alone[name], rtol=2e-5, atol=1e-6)


@pytest.mark.skipif(not is_torchvision_available(), reason="their processors need torchvision")
@pytest.mark.parametrize("stack", ["ddp", "zero3", "fsdp2"])
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_other_families(family: str, stack: str, world: World, given: Sequence[str], tmp_path: Path) -> None:
    if stack == "zero3" and family.startswith(("Qwen3VLMoe", "Molmo2")):
        pytest.skip("transformers 5.23 ends with an error where it loads such a model under ZeRO-3")
    torch.manual_seed(0)
    made = World(tmp_path, tmp_path / "model", world.images)
    for part in VISION_FAMILIES[family]():
        part.save_pretrained(made.vision)
    options = {**_OPTIONS, "gradient_accumulation_steps": 2}
    if stack == "zero3" and family.startswith(("Lfm2Vl", "MiniCPM")):
        # Without that they wait for one another, for ever.
        assert (
            "runs its projector for each picture anew" in start(given, made, stack, tmp_path / "two").stderr
        )
        return
    assert run([*given, *words(made, made.vision, tmp_path / "one", **options)]) == 0
    both(given, made, stack, tmp_path / "two")
    one, two = (parameters(tmp_path / name) for name in ("one", "two"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=2e-5, atol=1e-6)
    begun = parameters(made.vision)
    assert sum(not torch.equal(value, begun[name]) for name, value in two.items()) > 20


@pytest.mark.parametrize("stack", ["ddp", "zero3", "fsdp2"])
def test_they_do_so_with_their_activations_computed_again(
    stack: str, alone: dict[str, Tensor], world: World, given: Sequence[str], tmp_path: Path
) -> None:
    both(given, world, stack, tmp_path / "out", gradient_checkpointing=True)
    for name, value in parameters(tmp_path / "out").items():
        torch.testing.assert_close(value, alone[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("has_pictures", [False, True])
def test_what_a_batch_does_not_use_has_no_gradient(has_pictures: bool, world: World, tmp_path: Path) -> None:
    """Text alone leaves the projector out, pictures the last layers of the vision tower that is trained."""
    given = write(tmp_path, [*mixture()[has_pictures ^ 1 :: 2]] * 2)
    options = {"gradient_checkpointing": True, "train_vision": True}
    alone = words(world, world.vision, tmp_path / "one", **_OPTIONS, **options, gradient_accumulation_steps=2)
    assert run([*given, *alone]) == 0
    both(given, world, "ddp", tmp_path / "two", **options)
    one, two = (parameters(tmp_path / name) for name in ("one", "two"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("stack", ["zero3", "fsdp2"])
def test_a_lora(stack: str, world: World, given: Sequence[str], tmp_path: Path) -> None:
    options = {**_OPTIONS, "lora_rank": 4, "lora_dropout": 0.0, "learning_rate": 0.5}
    one = words(world, world.vision, tmp_path / "one", **options, gradient_accumulation_steps=2)
    assert run([*given, *one]) == 0
    both(given, world, stack, tmp_path / "two", **options)
    alone, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert alone.keys() == two.keys()
    assert all(value.abs().max() > 0 for value in alone.values())
    for name, value in alone.items():
        torch.testing.assert_close(two[name], value, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("stack", ["ddp", "zero2", "zero3", "fsdp2"])
def test_they_go_on_from_their_checkpoint(
    stack: str, world: World, given: Sequence[str], tmp_path: Path
) -> None:
    """To the parameters of the unbroken training: moments, schedule, and the second epoch's order."""
    options = {"save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch", "learning_rate": 1e-3}
    options |= {"lr_scheduler_type": "linear", "max_steps": 5, **GROUPED}
    out = tmp_path / "out"
    both(given, world, stack, out, **options)
    whole = parameters(out)
    shutil.rmtree(out / "checkpoint-5")
    (out / "model.safetensors").unlink()
    assert "goes on from" in both(given, world, stack, out, **options)
    for name, value in parameters(out).items():
        assert torch.equal(value, whole[name]), name
