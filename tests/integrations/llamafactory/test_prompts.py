"""Generation asks the trained model as LLaMA-Factory has trained it, token for token, pictures and all."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

import torch

from cotbal.integrations.answering.questions import Question
from cotbal.integrations.huggingface.chat import load_chat
from tests.integrations.llamafactory.llava_records import llava_records, write
from tests.integrations.llamafactory.runs import Case, train

_AGREES = "cotbal: chat template: the one that is saved with the model asks as the training does"
pytestmark = pytest.mark.timeout(600)


class Family(NamedTuple):
    """A model, LLaMA-Factory's template for it, and what its records have between picture and question."""

    model: str
    template: str
    between: str = ""


FAMILIES = (
    # Its tokenizer has no chat template: LLaMA-Factory saves its own.
    Family("llama", "default"),
    Family("llama", "vicuna"),
    # Its tokenizer has one, and keeps it.
    Family("qwen", "qwen"),
    Family("llava", "llava", "\n"),
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.model}, {family.template}")
@pytest.mark.filterwarnings("ignore")  # torch's deprecations in transformers' code.
def test_generation_asks_as_the_training_did(world: Path, tmp_path: Path, family: Family) -> None:
    records = llava_records(world, "_img" if family.model == "llava" else "", family.between)
    result = _train(world, tmp_path, family, records)
    assert _AGREES in result.stdout
    (step,) = torch.load(tmp_path / "run" / "steps" / "rank0.pt", weights_only=True)
    (batch,) = step["batches"]
    trained = {_prompt(*row) for row in zip(batch["input_ids"], batch["labels"], strict=True)}
    assert len(trained) == len(records)
    chat = load_chat(str(tmp_path / "run" / "out"), None, torch.device("cpu"), newline=family.between == "\n")
    questions = [
        Question(n, each["conversations"][0]["value"].removeprefix("<image>\n"), each.get("image"), None)
        for n, each in enumerate(records)
    ]
    batches = [[n] for n in range(len(questions))]
    prompts = chat.prompts(questions, batches, range(len(batches)), world)
    asked = {tuple(prompts[n].inputs["input_ids"][0].tolist()) for n in range(len(batches))}
    assert asked == trained


def _train(world: Path, folder: Path, family: Family, records: list[dict[str, Any]]) -> Any:
    """One step over all of the records."""
    write(folder / "data.jsonl", records)
    options = {
        "model_name_or_path": str(world / family.model),
        "template": family.template,
        "cotbal_data": str(folder / "data.jsonl"),
        "dataset": None,
        "dataset_dir": None,
        "cotbal_weights": None,
        "per_device_train_batch_size": len(records),
        "gradient_accumulation_steps": 1,
        "max_steps": 1,
    }
    result = train(Case("prompts", options=options), world, folder / "run")
    assert result.returncode == 0, result.stderr
    return result


def _prompt(row: torch.Tensor, labels: torch.Tensor) -> tuple[int, ...]:
    return tuple(row[: int((labels != -100).nonzero()[0])].tolist())


def test_what_the_saved_chat_template_does_otherwise_is_told(world: Path, tmp_path: Path) -> None:
    said = _told(world, tmp_path / "a", Family("qwen", "qwen3_nothink"))
    assert (
        "asks '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assist" in said
    )
    assert (
        ", the training '<|im_start|>user\\nWhat is it?<|im_end|>\\n<|im_start|>assistant\\n'; give" in said
    )
    # A processor without one: LLaMA-Factory saves one for the tokenizer, which takes no message in parts.
    shutil.copytree(world / "llava", tmp_path / "llava")
    (tmp_path / "llava" / "chat_template.jinja").unlink()
    said = _told(world, tmp_path / "b", Family(str(tmp_path / "llava"), "llava"))
    assert "chat template: the one that is saved cannot ask: can only concatenate str (not" in said


def _told(world: Path, folder: Path, family: Family) -> str:
    folder.mkdir()
    said: str = _train(world, folder, family, llava_records(world, "")[:3]).stdout
    return next(line for line in said.splitlines() if line.startswith("cotbal: chat template: "))
