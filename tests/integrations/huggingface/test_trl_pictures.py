"""TRL's SFTTrainer on chats with pictures, by TRL's own collator: its steps are Eq. 2 by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import is_torchvision_available

import cotbal
from cotbal.integrations.huggingface import TaskCollator
from tests.integrations.huggingface.chat_world import make_world
from tests.integrations.huggingface.finetune.vision_families import VISION_FAMILIES

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
from tests.integrations.huggingface.test_trl import SFT, PlainSFT, config  # noqa: E402

WEIGHTS = {"vqa": 0.5, "chat": 2.0}
RATE, STEPS, WINDOW = 0.05, 2, 6
# `make test-vision` runs the others.
MODELS = ["LLaVA"]
if is_torchvision_available():
    MODELS += [
        f"{name}ForConditionalGeneration"
        for name in ("Qwen2_5_VL", "Qwen3VL", "Gemma4", "InternVL", "SmolVLM")
    ]


def made(model: str, folder: Path) -> Path:
    """The folder of a tiny model and its processor."""
    if model == "LLaVA":
        return make_world(folder).vision
    torch.manual_seed(0)
    for part in VISION_FAMILIES[model]():
        part.save_pretrained(folder)
    return folder


def rows(is_conversation: bool) -> list[dict[str, Any]]:
    """A question on a picture in each, whose answer is long in every other."""
    found = []
    for n in range(STEPS * WINDOW):
        task, answer = ("vqa", "red that") if n % 2 else ("chat", f"the number is shown {n} here")
        turns = [{"role": "user", "content": f"what is {n}"}, {"role": "assistant", "content": answer}]
        parts = {"messages": turns} if is_conversation else {"prompt": turns[:1], "completion": turns[1:]}
        picture = Image.new("RGB", (60, 30 + n), (20 * n, 3, 5))
        found.append({"images": [picture], "task": task, **parts})
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_conversation", [True, False], ids=["messages", "prompt and completion"])
@pytest.mark.parametrize("model", MODELS)
def test_steps_are_those_of_equation_2(model: str, is_conversation: bool, tmp_path: Path) -> None:
    folder, data = made(model, tmp_path / "model"), datasets.Dataset.from_list(rows(is_conversation))
    args = config(
        tmp_path / "out",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=WINDOW // 2,
        max_steps=STEPS,
        learning_rate=RATE,
        max_length=None,
        gradient_checkpointing=False,
    )
    given = {"train_dataset": data, "processing_class": AutoProcessor.from_pretrained(folder)}
    trained = AutoModelForImageTextToText.from_pretrained(folder)
    if is_conversation:
        trainer = PlainSFT(trained, args, **given)
        own = trainer.data_collator
        cotbal.patch(trainer, weights=WEIGHTS)
    else:
        trainer = SFT(trained, args, weights=WEIGHTS, tasks=list(WEIGHTS), **given)
        own = trainer.data_collator
        trainer.data_collator = TaskCollator(own, list(WEIGHTS))
    trainer.train()

    exact = AutoModelForImageTextToText.from_pretrained(folder).double()
    logged = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    for step in range(STEPS):
        total, denominator = torch.zeros((), dtype=torch.float64), 0.0
        for n in range(WINDOW * step, WINDOW * (step + 1)):
            record = data[n]
            weight = WEIGHTS[record.pop("task")]
            batch = own([record])
            labels = batch.pop("labels")[0, 1:]
            inputs = {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
            chosen = exact(**inputs).logits[0, :-1].log_softmax(-1)[labels >= 0]
            total = total - weight * chosen.gather(1, labels[labels >= 0, None]).sum()
            denominator += weight * len(chosen)
        assert logged[step] == pytest.approx(float(total.detach()) / denominator, rel=1e-6)
        exact.zero_grad()
        (total / denominator).backward()
        with torch.no_grad():
            for parameter in exact.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
    for (name, value), by_hand in zip(trained.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(value.double(), by_hand, rtol=1e-6, atol=3e-6, msg=name)
