"""Records of two tasks for the tiny chat models, and the command on them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, TrainingArguments

from cotbal.integrations.huggingface.chat_template import ChatTemplate, kind_of
from cotbal.integrations.huggingface.finetune import entry
from cotbal.integrations.huggingface.finetune.collator import DialogueCollator
from cotbal.integrations.huggingface.finetune.records import read_files
from tests.integrations.huggingface.chat_world import World

# Qwen-VL and GLM-V have their projector within the tower.
FROZEN = re.compile(r"vision_tower|vision_model|visual\.(?!merger|deepstack_merger_list)")
WEIGHTS = {"vqa": 0.5, "chat": 2.0}
# Before transformers 5 it has another name.
GROUPED: dict[str, object] = (
    {"train_sampling_strategy": "group_by_length"}
    if hasattr(TrainingArguments, "train_sampling_strategy")
    else {"group_by_length": True}
)

SEQUENTIAL: dict[str, object] = (
    {"train_sampling_strategy": "sequential"}
    if hasattr(TrainingArguments, "train_sampling_strategy")
    else {"shuffle": False}
)


def record(n: int, *turns: tuple[str, str], task: str = "vqa", image: str | None = None) -> dict[str, Any]:
    """A record as LLaVA's data have it; the picture stands before the first question."""
    values = [
        {"from": role, "value": text}
        for question, answer in turns
        for role, text in (("human", question), ("gpt", answer))
    ]
    if image is not None:
        values[0]["value"] = "<image>\n" + values[0]["value"]
    pictured = {} if image is None else {"image": image}
    return {"id": n, **pictured, "conversations": values, "task": task}


def mixture(is_pictured: bool = True) -> list[dict[str, Any]]:
    """Six records with a picture, of one or two turns, and six without."""
    vqa = [
        record(
            n,
            ("what is it", "red that"),
            *([("which number", "the number is there")] if n % 2 else []),
            image=f"{2 * n}.png" if is_pictured else None,
        )
        for n in range(6)
    ]
    chat = [record(n, ("what is here", f"it is shown {n}"), task="chat") for n in range(6)]
    # In turn, so that a batch has both.
    return [each for pair in zip(vqa, chat, strict=True) for each in pair]


def write(folder: Path, records: Sequence[dict[str, Any]], weights: Any = WEIGHTS) -> list[str]:
    """The words that name the records and the weights, written to files."""
    folder.mkdir(parents=True, exist_ok=True)
    data, given = folder / "train.json", folder / "weights.json"
    data.write_text(json.dumps(list(records)))
    given.write_text(json.dumps(weights))
    return ["--data", str(data), "--weights", str(given)]


def batch_of(collator: DialogueCollator, folder: Path, *records: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What a collator makes of records."""
    path = folder / "records.json"
    path.write_text(json.dumps(records))
    read = read_files([str(path)])
    return collator([{"item": read[n]["item"]} for n in range(len(read))])


def trained(collator: DialogueCollator, batch: dict[str, torch.Tensor]) -> list[str]:
    """The text of each row's labels."""
    return [collator.template.tokenizer.decode(row[row >= 0]) for row in batch["labels"]]


def words(world: World, model: Path, out: Path, **options: object) -> list[str]:
    """The other words of the command."""
    given = {
        "model": model,
        "image_folder": world.images,
        "output_dir": out,
        "use_cpu": True,
        "report_to": "none",
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        **options,
    }
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)]


def run(arguments: Sequence[str]) -> int:
    """The command's exit code."""
    return entry.main(list(arguments))


def check_step(model: Path, images: Path, records: Sequence[dict[str, Any]], folder: Path, end: str) -> None:
    """Holds one step of the command, in three micro-batches, against Eq. 2 by hand in float64."""
    rate = 0.5
    options: dict[str, Any] = {"max_steps": 1, "save_strategy": "no", "gradient_accumulation_steps": 3}
    options |= {"optim": "sgd", "learning_rate": rate, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    options["per_device_train_batch_size"] = len(records) // 3
    given, out = write(folder, records), folder / "out"
    assert run([*given, *words(World(folder, folder, images), model, out, **options)]) == 0

    kind = kind_of(AutoConfig.from_pretrained(model))
    exact = kind.model.from_pretrained(model).double().eval()
    # The grouped product of experts has no float64.
    exact.config.get_text_config()._experts_implementation = "eager"
    collator = DialogueCollator(ChatTemplate(kind.processor.from_pretrained(model)), images, [end])
    total, denominator = torch.zeros((), dtype=torch.float64), 0.0
    for each in records:
        batch = batch_of(collator, folder, each)
        labels = batch.pop("labels")[0, 1:]
        inputs = {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
        logits = exact(**inputs).logits[0, :-1]
        weight, is_valid = WEIGHTS[each["task"]], labels >= 0
        total = total - weight * logits.log_softmax(-1)[is_valid, labels[is_valid]].sum()
        denominator += weight * int(is_valid.sum())
    (total / denominator).backward()

    logged = json.loads((out / "trainer_state.json").read_text())["log_history"]
    # Rounded to four digits by the log.
    assert next(line["loss"] for line in logged if "loss" in line) == pytest.approx(
        float(total.detach()) / denominator, rel=2e-4
    )
    before = dict(kind.model.from_pretrained(model).named_parameters())
    after = dict(kind.model.from_pretrained(out).named_parameters())
    for name, own in exact.named_parameters():
        if FROZEN.search(name):
            assert torch.equal(before[name], after[name]), name
            continue
        wanted = torch.zeros_like(own) if own.grad is None else own.grad
        gradient = (before[name] - after[name]).double() / rate
        # What a parameter was rounded to, over the rate.
        rounding = float(before[name].detach().abs().max()) * 2**-23 / rate
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=rounding + 1e-6)
