"""A model is asked as it was trained, and answers what it was trained on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cotbal.integrations.huggingface import generate
from tests.integrations.huggingface.chat_world import PARTS, World, make_world
from tests.integrations.huggingface.finetune.world import record, run, words, write

# PEFT's call, and torch's of a loader without a GPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


@pytest.mark.parametrize("rank", [0, 4])
def test_what_was_trained_is_answered(rank: int, world: World, tmp_path: Path) -> None:
    """The folder is one that `generate` takes, and what the records say is learned by heart."""
    # Without the letters at which this model ends.
    said = ["so", "not", "up"]
    records = [record(n, ("what is it", text), image=f"{2 * n}.png") for n, text in enumerate(said)]
    options = {"max_steps": 60, "save_strategy": "no", "learning_rate": 2e-3 if rank == 0 else 2e-2}
    options |= {
        **({"lora_rank": rank, "lora_dropout": 0.0} if rank else {}),
        "per_device_train_batch_size": 3,
        "logging_steps": 20,
    }
    given, out = write(tmp_path, records, {"vqa": 1.0}), tmp_path / "out"
    assert run([*given, *words(world, world.vision, out, **options)]) == 0
    asked = tmp_path / "questions.jsonl"
    asked.write_text(
        "".join(
            json.dumps({"question_id": n, "image": f"{2 * n}.png", "text": "what is it"}) + "\n"
            for n in range(3)
        )
    )
    command = ["--model", out, "--questions", asked, "--image-folder", world.images, "--workers", 0]
    assert generate.main([*map(str, command), "--out", str(tmp_path / "answers.jsonl")]) == 0
    answers = [json.loads(line)["text"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert answers == said


def test_an_empty_thought_that_is_trained_is_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Qwen's template has it: with the last answer alone, and with the prompt where it is told so."""
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}<s>{{ m.role }}:{% if m.role == 'assistant' and loop.last %}<think></think>"
        "{% endif %}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant:{{ thought | default('') }}{% endif %}"
    )
    given = write(tmp_path, [record(n, ("what", "it"), ("which", "red")) for n in range(2)], {"vqa": 1.0})
    options = {"max_steps": 1, "save_strategy": "no", "chat_template": template}
    for variables, marked in (
        ({}, "assistant:[[<think></think>it<|end|>]]"),
        ({"thought": "<think></think>"}, "assistant:<think></think>[[it<|end|>]]"),
    ):
        out = tmp_path / str(len(variables))
        options["chat_template_kwargs"] = json.dumps(variables)
        assert run([*given, *words(world, world.text, out, **options)]) == 0
        told = capsys.readouterr().out
        assert marked in told
        assert marked.replace("it<", "red<") in told
        assert ("an empty thought is trained before each answer" in told) == (not variables)


def test_a_model_is_asked_as_it_was_trained(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the training was told of its prompts holds in `generate`, which may be told otherwise."""
    template = tmp_path / "template.jinja"
    # With the mark that editors on Windows put in front, which is no part of a prompt.
    template.write_text(PARTS.replace(":{%", "{{ tone | default('') }}:{%"), encoding="utf-8-sig")
    options: dict[str, Any] = {"max_steps": 1, "save_steps": 1, "chat_template": template}
    options |= {
        "system": "it is here",
        "chat_template_kwargs": '{"tone": "the"}',
        "newline_after_image": True,
    }
    out = tmp_path / "out"
    given = write(tmp_path, [record(1, ("what is it", "red that"), image="0.png")] * 4)
    assert run([*given, *words(world, world.vision, out, **options)]) == 0
    trained = re.search(r"in \[\[ \]\]: '(.*)\[\[", capsys.readouterr().out)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question_id": 1, "text": "what is it", "image": "0.png"}\n')

    def asked(model: Path, *more: str) -> str:
        words = ["--model", str(model), "--questions", str(questions), "--image-folder", str(world.images)]
        words += ["--out", str(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"), "--workers", "0"]
        assert generate.main([*words, "--max-new-tokens", "1", *more]) == 0
        prompt = re.search(r"the first prompt: '(.*)'", capsys.readouterr().err)
        assert prompt is not None
        return prompt[1]

    assert trained is not None
    assert trained[1].startswith("<s>systemthe:it is here<|end|><s>userthe:<image>\\n\\nwhat")
    assert asked(out) == asked(out / "checkpoint-1") == trained[1]
    other = asked(out, "--system", "the", "--chat-template-kwargs", "{}")
    assert other.startswith("<s>system:the<|end|><s>user:<image>\\n\\nwhat")
