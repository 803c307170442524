"""Families whose processors write pictures in other ways; most of them need torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

from cotbal.integrations.answering.questions import Question
from cotbal.integrations.huggingface.chat import load_chat
from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.finetune.collator import DialogueCollator
from cotbal.integrations.huggingface.finetune.records import STAND_IN
from tests.integrations.huggingface.chat_world import World
from tests.integrations.huggingface.finetune.families import END, gemma3, idefics3, llava_next, mllama
from tests.integrations.huggingface.finetune.vision_families import VISION_FAMILIES
from tests.integrations.huggingface.finetune.world import (
    batch_of,
    check_step,
    record,
    run,
    trained,
    words,
    write,
)

_FAMILIES = {"Idefics3": idefics3, "Gemma3": gemma3, "LlavaNext": llava_next}
# `make test-vision` runs them.
if is_torchvision_available():
    _FAMILIES |= {name: made for name, made in VISION_FAMILIES.items() if hasattr(transformers, name)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three, each of its own size."""
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 255, (30 + 20 * n, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_family_that_takes_no_mixed_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its attention to pictures is a mask over all rows or none."""
    for part in mllama():
        part.save_pretrained(tmp_path / "model")
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    pictured, plain = record(0, ("what is it", "one"), image="0.png"), record(1, ("what", "it"))
    for chosen, code in (([pictured, plain], 2), ([pictured], 0), ([plain], 0)):
        given = write(tmp_path, chosen)
        asked = words(World(tmp_path, tmp_path, tmp_path), tmp_path / "model", tmp_path / "out")
        assert run([*given, *asked, "--max_steps", "1", "--save_strategy", "no"]) == code
        said = capsys.readouterr().err
        assert ("as mllama takes no batch of both, got 1 of 2 with one" in said) == (code == 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", _FAMILIES)
def test_a_mixed_batch_is_its_records_one_by_one(family: str, pictures: Path) -> None:
    """The loss of pictures of several sizes, and of none, padded beside one another."""
    torch.manual_seed(0)
    processor, model = _FAMILIES[family]()
    model.double().eval()
    records = [
        record(0, ("what is it", "number one"), ("and here", "two"), image="2.png"),
        record(1, ("what", "the number is the number")),
        record(2, ("is it here", "it is"), image="0.png"),
        record(3, ("which number", "one"), image="1.png"),
        record(4, ("<image>what", "one"), ("<image>is it", "one"), ("what", "so"), ("it<image>", "one")),
    ]
    records[-1]["image"] = ["0.png", "2.png", "1.png"]
    collator = DialogueCollator(ChatTemplate(processor), pictures, [END])

    def loss_sum(*chosen: dict[str, Any]) -> torch.Tensor:
        batch = batch_of(collator, pictures, *chosen)
        given = {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
        with torch.no_grad():
            return model(**given).loss * (batch["labels"] >= 0).sum()

    batch = batch_of(collator, pictures, *records)
    assert trained(collator, batch)[0] == "number one<|im_end|>two<|im_end|>"
    assert trained(collator, batch)[4] == "one<|im_end|>one<|im_end|>so<|im_end|>one<|im_end|>"
    one_by_one = sum(loss_sum(each) for each in records)
    stand_in = collator([{"item": STAND_IN}])
    assert (stand_in["labels"] == -100).all()
    assert stand_in["pixel_values"].numel() > 0
    # The models' own loss is in float32.
    torch.testing.assert_close(loss_sum(*records), one_by_one, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [name for name in _FAMILIES if name in VISION_FAMILIES])
def test_a_step_is_that_of_equation_2(family: str, pictures: Path) -> None:
    torch.manual_seed(0)
    for part in VISION_FAMILIES[family]():
        part.save_pretrained(pictures / "model")
    records = [
        record(0, ("what is it", "number one"), ("and here", "two"), image="2.png"),
        record(1, ("what", "the number is the number"), task="chat"),
        record(2, ("is it here", "it is"), image="0.png"),
        record(3, ("which number", "one"), image="1.png", task="chat"),
        record(4, ("what is here", "it is here")),
        record(5, ("number", "is it"), task="chat"),
    ]
    check_step(pictures / "model", pictures, records, pictures, END)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", _FAMILIES)
def test_questions_in_a_batch_are_answered_as_alone_and_asked_as_in_training(
    family: str, pictures: Path
) -> None:
    torch.manual_seed(0)
    processor, model = _FAMILIES[family]()
    # A tied head would say the last token again and again.
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    for part in (processor, model):
        part.save_pretrained(pictures / "model")
    chat = load_chat(str(pictures / "model"), None, torch.device("cpu"))
    questions = [
        Question(0, "what is the number here", "0.png", None),
        Question(1, "what", "2.png", None),
        Question(2, "is it here", None, None),
        Question(3, "is", None, None),
    ]
    batches = [[0], [1], [2], [3], [0, 1], [2, 3]]
    asked = chat.prompts(questions, batches, range(len(batches)), pictures)
    *alone, pictured, plain = [chat.answer(asked[n], 6)[0] for n in range(len(batches))]
    said = [answer for (answer,) in alone]
    assert said == [*pictured, *plain]
    assert len(set(said)) > 1
    collator = DialogueCollator(ChatTemplate(processor), pictures, [END])
    for n, question in enumerate(questions):
        row = batch_of(collator, pictures, record(n, (question.text, "it"), image=question.image))
        first = int((row["labels"][0] >= 0).nonzero()[0])
        assert torch.equal(row["input_ids"][0, :first], asked[n].inputs["input_ids"][0])
