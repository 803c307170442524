"""The command: its steps are Eq. 2's, what is trained, and that it goes on from its checkpoints."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, Qwen2ForCausalLM, TrainerCallback

from cotbal.balancing import DWA, save_rule
from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.finetune import entry
from cotbal.integrations.huggingface.finetune.collator import DialogueCollator
from tests.integrations.huggingface.chat_world import World, make_world
from tests.integrations.huggingface.finetune.world import (
    GROUPED,
    SEQUENTIAL,
    WEIGHTS,
    batch_of,
    check_step,
    mixture,
    record,
    run,
    words,
    write,
)

# PEFT's call, and torch's of a loader without a GPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


def parameters(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_a_step_is_that_of_equation_2(kind: str, world: World, tmp_path: Path) -> None:
    """Twelve records in three micro-batches, pictures and text mixed, by hand in float64."""
    records = mixture(kind == "vision")
    check_step(getattr(world, kind), world.images, records, tmp_path, "<|end|>")


def test_labels_are_smoothed_under_the_task_weights(world: World, tmp_path: Path) -> None:
    """By the Trainer's word for it, whose own smoothing knows no tasks."""
    given, epsilon = write(tmp_path, mixture(False)), 0.2
    options = {"max_steps": 1, "save_strategy": "no", "label_smoothing_factor": epsilon}
    options["gradient_accumulation_steps"] = 3
    assert run([*given, *words(world, world.text, tmp_path / "out", **options)]) == 0
    model = Qwen2ForCausalLM.from_pretrained(world.text).eval()
    collator = DialogueCollator(
        ChatTemplate(AutoTokenizer.from_pretrained(world.text)), tmp_path, ["<|end|>"]
    )
    total = denominator = 0.0
    for each in mixture(False):
        batch = batch_of(collator, tmp_path, each)
        labels, weight = batch.pop("labels")[0, 1:], WEIGHTS[each["task"]]
        rows = model(**batch).logits[0, :-1].log_softmax(-1)[labels >= 0]
        likely = rows.gather(1, labels[labels >= 0, None]).sum()
        total -= weight * ((1 - epsilon) * likely + epsilon * rows.mean(-1).sum()).item()
        denominator += weight * len(rows)
    logged = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert next(line["loss"] for line in logged if "loss" in line) == pytest.approx(
        total / denominator, rel=2e-4
    )


@pytest.mark.parametrize("trains_vision", [False, True])
def test_the_vision_tower_is_frozen_unless_it_is_asked_for(
    trains_vision: bool, world: World, tmp_path: Path
) -> None:
    given = write(tmp_path, mixture())
    options = {"train_vision": trains_vision, "max_steps": 1, "save_strategy": "no"}
    assert run([*given, *words(world, world.vision, tmp_path / "out", **options)]) == 0
    names = changed(parameters(world.vision), parameters(tmp_path / "out"))
    assert any("vision_tower" in name for name in names) == trains_vision
    assert any("multi_modal_projector" in name for name in names)
    assert any("lm_head" in name for name in names)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_lora_is_on_the_language_model_alone(checkpointing: bool, world: World, tmp_path: Path) -> None:
    given, out = write(tmp_path, mixture()), tmp_path / "out"
    options = {"lora_rank": 4, "max_steps": 2, "gradient_checkpointing": checkpointing}
    assert run([*given, *words(world, world.vision, out, **options)]) == 0
    adapter = load_file(out / "adapter_model.safetensors")
    assert {name.split(".layers.")[0] for name in adapter} == {"base_model.model.model.language_model"}
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapter}
    assert layers == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    # B begins at 0; whatever has a gradient has left it.
    assert all(value.abs().max() > 0 for value in adapter.values())
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.05)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lora_on_a_quantised_model(bits: int, world: World, tmp_path: Path) -> None:
    """Its loss is at the linear level, and falls."""
    pytest.importorskip("bitsandbytes")
    given, out = write(tmp_path, mixture()), tmp_path / "out"
    options = {"lora_rank": 4, "max_steps": 8, "learning_rate": 1e-2, "level": "linear", "bf16": True}
    options |= {f"load_in_{bits}bit": True, "per_device_train_batch_size": 12, "save_strategy": "no"}
    assert run([*given, *words(world, world.vision, out, **options)]) == 0
    adapter = load_file(out / "adapter_model.safetensors")
    assert all(value.abs().max() > 0 for value in adapter.values())
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_it_goes_on_from_its_checkpoint(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bits of the unbroken training; a half-written checkpoint is not one."""
    given, options = write(tmp_path, mixture(is_pictured=False)), {"lr_scheduler_type": "constant"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run([*given, *words(world, world.text, whole, **options)]) == 0
    assert run([*given, *words(world, world.text, broken, **options)]) == 0
    for path in (broken / "model.safetensors", broken / "checkpoint-4" / "trainer_state.json"):
        path.unlink()
    capsys.readouterr()
    assert run([*given, *words(world, world.text, broken, **options)]) == 0
    assert "goes on from" in capsys.readouterr().out
    assert not changed(parameters(whole), parameters(broken))
    logs = [json.loads((out / "trainer_state.json").read_text())["log_history"] for out in (whole, broken)]
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


class Stops(TrainerCallback):
    """After two steps, with a checkpoint, as transformers does on SIGTERM under --enable_jit_checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_save = state.global_step == 2


def test_a_training_that_is_stopped_has_not_ended(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code was 0 and its model saved: an estimate would have scored it as that of all four steps."""
    given, out = write(tmp_path, mixture(is_pictured=False)), tmp_path / "out"
    command = [*given, *words(world, world.text, out, save_strategy="no")]
    with monkeypatch.context() as patched:
        patched.setattr(entry, "FinetuneTrainer", partial(entry.FinetuneTrainer, callbacks=[Stops()]))
        assert run(command) == 1
    told = capsys.readouterr().err
    assert "expected 4 steps, got 2" in told
    assert f"Start it again, and it goes on from {out / 'checkpoint-2'}" in told
    assert not (out / "model.safetensors").exists()
    assert run(command) == 0
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, "seed"),
        ({"data_seed": 3}, "data_seed (None, now 3)"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last (False, now True)"),
        pytest.param(
            SEQUENTIAL,
            "train_sampling_strategy (random, now sequential)",
            marks=pytest.mark.skipif("shuffle" in SEQUENTIAL, reason="transformers 4 has no such order"),
        ),
        ({"gradient_accumulation_steps": 2}, "records_per_step (4, now 8)"),
        ({"system": "it"}, "system"),
        ({"lora_rank": 2}, "lora_rank"),
        (GROUPED, "group_by_length"),
        ("data", "data"),
        ("weights", "weights"),
        ("rule", "weights"),
        ("settings", "data"),
    ],
)
def test_checkpoints_of_another_training_are_refused(
    change: Any, named: str, begun: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    options = {} if isinstance(change, str) else change
    records = mixture(is_pictured=False)
    given = write(tmp_path, records[:-1] if change == "data" else records)
    if change == "weights":
        (tmp_path / "weights.json").write_text(json.dumps(WEIGHTS | {"chat": 1.5}))
    if change == "rule":
        save_rule(DWA(window=5), tmp_path / "weights.json")
    if change == "settings":
        (out / "cotbal_finetune.json").unlink()
    assert run([*given, *words(world, world.text, out, max_steps=2, save_steps=1, **options)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "got checkpoint-1 of one with another" in said
    assert named in said.rpartition("another")[0] or named in said


def test_smaller_batches_that_drop_fewer_records_are_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 10 records, two batches of 4 made two steps and five of 2 make three: one was trained on twice."""
    given, out = write(tmp_path, mixture(is_pictured=False)[:10]), tmp_path / "out"
    common = {"dataloader_drop_last": True, "save_steps": 1}
    assert run([*given, *words(world, world.text, out, max_steps=3, **common)]) == 0
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert run([*given, *words(world, world.text, out, **common, **sizes)]) == 2
    assert "records_per_micro_batch (4, now 2)" in capsys.readouterr().err
    shutil.rmtree(out)
    del common["dataloader_drop_last"]
    assert run([*given, *words(world, world.text, out, max_steps=3, **common)]) == 0
    assert run([*given, *words(world, world.text, out, **common, **sizes)]) == 0


def test_files_of_one_task_may_have_other_names(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in a training that an earlier version began; not the tasks of one another."""
    out, (_, data, *weights) = tmp_path / "out", write(tmp_path, mixture(is_pictured=False))
    both = json.loads(Path(data).read_text())

    def trained(vqa: str, chat: str, steps: int, *tasks: str) -> int:
        given = ["--data", str(tmp_path / vqa), str(tmp_path / chat), "--tasks", *tasks, *weights]
        return run([*given, *words(world, world.text, out, max_steps=steps, save_steps=1)])

    for number, name in enumerate(("vqa", "chat")):
        own = [{key: each[key] for key in each if key != "task"} for each in both[number::2]]
        (tmp_path / f"{name}.json").write_text(json.dumps(own))
    assert trained("vqa.json", "chat.json", 1, "vqa.json=vqa", "chat.json=chat") == 0
    for name in ("vqa", "chat"):
        (tmp_path / f"{name}.json").rename(tmp_path / f"moved_{name}.json")
    moved = "moved_vqa.json", "moved_chat.json"
    capsys.readouterr()
    assert trained(*moved, 2, "moved_vqa.json=chat", "moved_chat.json=vqa") == 2
    assert "got checkpoint-1 of one with another file_tasks;" in capsys.readouterr().err
    names = "moved_chat.json=chat", "moved_vqa.json=vqa"
    assert trained(*moved, 2, *names) == 0
    assert "goes on from" in capsys.readouterr().out
    settings = json.loads((out / "cotbal_finetune.json").read_text())
    assert settings.pop("file_tasks") == ["vqa", "chat"]
    settings["tasks"] = ["vqa.json=vqa", "chat.json=chat"]
    (out / "cotbal_finetune.json").write_text(json.dumps(settings))
    assert trained(*moved, 2, *names) == 0


def test_a_row_that_is_too_long_can_be_cut_and_the_training_goes_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error says to do is possible; the numbers of a step's records are those of before."""
    # It was not among the longest by its characters.
    monkeypatch.setattr(entry, "N_LONGEST", 0)
    records = [*mixture(is_pictured=False)[:6], record(7, ("what", "it is " * 60), task="chat")]
    given = write(tmp_path, records)
    options: dict[str, Any] = {"num_train_epochs": 1, "max_steps": -1, "save_steps": 1}
    options |= {"per_device_train_batch_size": 2, **SEQUENTIAL}
    arguments = [*given, *words(world, world.text, tmp_path / "out", **options)]
    with pytest.raises(ValueError, match=r"record 7: expected at most 96 tokens, .* --max_length 96 cuts"):
        run(arguments)
    # As an earlier version wrote it.
    path = tmp_path / "out" / "cotbal_finetune.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if "per" not in k}))
    assert run([*arguments, "--max_length", "96"]) == 0
    said = capsys.readouterr().out
    assert "checkpoint-2 was trained with another max_length (None, now 96)" in said
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 4


def test_a_finished_training_trains_no_further(world: World, tmp_path: Path) -> None:
    """It may have been ended while it saved the model, after its last step within an epoch."""
    given, out = write(tmp_path, mixture(is_pictured=False)), tmp_path / "out"
    arguments = [*given, *words(world, world.text, out, lr_scheduler_type="constant")]
    assert run(arguments) == 0
    first = parameters(out)
    (out / "model.safetensors").unlink()
    assert run(arguments) == 0
    assert not changed(first, parameters(out))
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 4


def test_a_model_whose_generation_samples_is_saved(world: World, tmp_path: Path) -> None:
    """Values of sampling without `do_sample`, as Vicuna's generation_config.json: transformers saves none."""
    folder = tmp_path / "model"
    shutil.copytree(world.text, folder)
    own = {"eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(own))
    given, out = write(tmp_path, mixture(is_pictured=False)), tmp_path / "out"
    assert run([*given, *words(world, folder, out, max_steps=1, save_steps=1)]) == 0
    saved = json.loads((out / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"], saved["top_p"]) == (True, 0.9, 0.6)
    assert parameters(out).keys() == parameters(world.text).keys()


@pytest.fixture(scope="module")
def begun(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    given = write(folder, mixture(is_pictured=False))
    assert run([*given, *words(world, world.text, folder / "out", max_steps=1, save_steps=1)]) == 0
    return folder / "out"


def test_without_weights_and_by_a_rule(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write(tmp_path, mixture(is_pictured=False))
    options = {"max_steps": 1, "save_strategy": "no"}
    assert run([*given[:2], *words(world, world.text, tmp_path / "ones", **options)]) == 0
    assert "12 records: chat 6, vqa 6; weights all 1" in capsys.readouterr().out
    # As everywhere else: they were left out without a word.
    monkeypatch.setenv("COTBAL_WEIGHTS", given[3])
    assert run([*given[:2], *words(world, world.text, tmp_path / "named", **options)]) == 0
    assert "weights vqa 0.5, chat 2" in capsys.readouterr().out
    save_rule(DWA(window=2), tmp_path / "weights.json")
    assert run([*given, *words(world, world.text, tmp_path / "rule", **options | {"max_steps": 3})]) == 0
    said = capsys.readouterr().out
    assert "weights by DWA" in said
    assert "[[it is shown 0<|end|>]]" in said or "[[red that<|end|>]]" in said
