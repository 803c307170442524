"""`python -m cotbal.integrations.huggingface.generate`: answers as greedy decoding by hand makes them."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from cotbal.collect.one_model import score_file
from cotbal.integrations.answering.questions import Question
from cotbal.integrations.huggingface import chat, generate
from cotbal.integrations.huggingface.chat import Chat, Prompts, load_chat
from cotbal.integrations.huggingface.chat_template import Kind, load_template
from cotbal.project import recipe_files
from tests.integrations.huggingface.chat_world import (
    IMAGE,
    PATCH,
    TEXT,
    WORDS,
    World,
    beginning_processor,
    make_world,
)

_TOKENS = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Some long, so that batches are padded much; those with pictures have some without among them."""

    def written(pictured: bool) -> Path:
        path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
        draw = np.random.default_rng(1)
        lines = []
        for n in range(12):
            text = " ".join(draw.choice(WORDS, draw.integers(2, 6) * (4 if n % 3 == 1 else 1)))
            image = {"image": f"{n}.png"} if pictured and n % 2 == 0 else {}
            lines.append({"question_id": f"q{n}", **image, "text": text, "answer": "no", "task": "GQA"})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return written


def ask(folder: Path, asked: Path, images: Path, out: Path, *more: object) -> dict[str, str]:
    options = {"model": folder, "questions": asked, "image-folder": images, "out": out, "workers": 0}
    options |= {"max-new-tokens": _TOKENS}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert generate.main([*words, *map(str, more)]) == 0
    if not out.exists():
        return {}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(set(row) == {"question_id", "text"} for row in rows)
    return {row["question_id"]: row["text"] for row in rows}


def by_hand(world: World, folder: Path, asked: Path, model: Any, system: str = "") -> dict[str, str]:
    """Greedy decoding, a token at a time, from prompts written here; no batch, no padding, no cache."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pictures = CLIPImageProcessor.from_pretrained(folder) if folder == world.vision else None
    found, ends = {}, {3, *range(40, 80)}
    for line in map(json.loads, asked.read_text().splitlines()):
        seen = "<image>" * (IMAGE // PATCH) ** 2 + "\n" if "image" in line else ""
        prompt = f"{system}<s>user:{seen}{line['text']}<|end|><s>assistant:"
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        length, given = ids.shape[1], {}
        if "image" in line:
            picture = Image.open(world.images / line["image"]).convert("RGB")
            given = {"pixel_values": pictures(picture, return_tensors="pt").pixel_values}
        while ids.shape[1] < length + _TOKENS and int(ids[0, -1]) not in ends:
            with torch.no_grad():
                next_id = model(input_ids=ids, use_cache=False, **given).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, next_id], dim=1)
        found[line["question_id"]] = tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
    return found


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_batches_answer_as_greedy_decoding_by_hand(
    kind: str, world: World, questions: Callable[[bool], Path], tmp_path: Path
) -> None:
    folder = getattr(world, kind)
    asked = questions(kind == "vision")
    model = (Qwen2ForCausalLM if kind == "text" else LlavaForConditionalGeneration).from_pretrained(folder)
    own = by_hand(world, folder, asked, model.eval())
    for size in (1, 5):
        assert ask(folder, asked, world.images, tmp_path / f"{size}.jsonl", "--batch-size", size) == own
    # What is asked matters; some end by themselves, some are cut.
    assert len(set(own.values())) > 4
    lengths = {len(text.split()) for text in own.values()}
    assert len(lengths) > 1


def test_a_picture_matters(world: World, questions: Callable[[bool], Path], tmp_path: Path) -> None:
    asked = questions(True)
    before = ask(world.vision, asked, world.images, tmp_path / "before.jsonl")
    other = tmp_path / "images"
    other.mkdir()
    for path in world.images.iterdir():
        Image.new("RGB", (40, 40), "red").save(other / path.name)
    after = ask(world.vision, asked, other, tmp_path / "after.jsonl")
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert changed <= {f"q{n}" for n in range(0, 12, 2)}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's call
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_a_lora_is_put_on_its_base(
    task_type: str | None, world: World, questions: Callable[[bool], Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    base = Qwen2ForCausalLM.from_pretrained(world.text)
    options = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, lora_alpha=16, task_type=task_type
    )
    tuned = peft.get_peft_model(base, options)
    tuned.save_pretrained(tmp_path / "lora")
    asked = questions(False)
    loaded = PeftModel.from_pretrained(Qwen2ForCausalLM.from_pretrained(world.text), tmp_path / "lora")
    own = by_hand(world, world.text, asked, loaded.eval())
    assert ask(tmp_path / "lora", asked, world.images, tmp_path / "named.jsonl") == own
    assert ask(tmp_path / "lora", asked, world.images, tmp_path / "o.jsonl", "--base", world.text) == own
    assert ask(world.text, asked, world.images, tmp_path / "base.jsonl") != own


def test_a_system_message_and_variables_reach_the_template(
    world: World,
    questions: Callable[[bool], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = questions(False)
    model = Qwen2ForCausalLM.from_pretrained(world.text).eval()
    own = by_hand(world, world.text, asked, model, "<s>system:it is here<|end|>")
    assert ask(world.text, asked, world.images, tmp_path / "s.jsonl", "--system", "it is here") == own
    assert "the first prompt: '<s>system:it is here<|end|><s>user:" in capsys.readouterr().err
    template = tmp_path / "template.jinja"
    # With the mark that editors on Windows put in front, which is no part of a prompt.
    changed = TEXT.replace("<s>{{ m.role", "<s>system:it is here<|end|><s>{{ m.role")
    template.write_text(changed, encoding="utf-8-sig")
    assert ask(world.text, asked, world.images, tmp_path / "t.jsonl", "--chat-template", template) == own
    ask(world.text, asked, world.images, tmp_path / "v.jsonl", "--chat-template-kwargs", '{"tone": "the"}')
    assert "<|end|><s>assistant:the'" in capsys.readouterr().err


def test_a_question_on_the_line_after_its_picture(
    world: World, questions: Callable[[bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those without a picture are asked as ever."""
    for name, words, between in (("same", [], "\n"), ("next", ["--newline-after-image"], "\n\n")):
        ask(world.vision, questions(True), world.images, tmp_path / f"{name}.jsonl", *words)
        assert f"the first prompt: {f'<s>user:<image>{between}'!r}"[:-1] in capsys.readouterr().err
    ask(world.text, questions(False), world.images, tmp_path / "text.jsonl", "--newline-after-image")
    assert "\\n" not in capsys.readouterr().err


def test_a_question_may_hold_its_pictures_place(world: World, tmp_path: Path) -> None:
    """As LLaVA's records do; the prompt is that of a training record."""
    template = load_chat(str(world.vision), None, torch.device("cpu")).template
    texts = ["what is it", "<image>\nwhat is it", "what is it\n<image>", "what<image>"]
    asked = [Question(n, text, "0.png", None) for n, text in enumerate(texts)]
    prompts = [Prompts(template, None, [(0, [each])], world.images).text(0) for each in asked]
    assert prompts == [prompts[0]] * 3 + [prompts[0].replace("what is it", "what")]
    for text, image in (("<image>what", None), ("<image><image>what", "0.png")):
        with pytest.raises(ValueError, match="question 7: expected <image> once at most, and with a picture"):
            Prompts(template, None, [(0, [Question(7, text, image, None)])], world.images).text(0)


def test_shares_are_put_together_and_scored(
    world: World, questions: Callable[[bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = questions(True)
    whole = ask(world.vision, asked, world.images, tmp_path / "whole.jsonl", "--batch-size", 4)
    assert "answers were cut after 10 tokens" in capsys.readouterr().err
    out = tmp_path / "parts.jsonl"
    assert ask(world.vision, asked, world.images, out, "--batch-size", 4, "--shard", "1/2") == {}
    assert ask(world.vision, asked, world.images, out, "--batch-size", 4, "--shard", "0/2") == whole
    assert score_file(asked, out).items == [float(text.lower() == "no") for text in whole.values()]


def test_what_the_answers_depend_on_is_kept(
    world: World, questions: Callable[[bool], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, out = questions(False), tmp_path / "out.jsonl"
    ask(world.text, asked, world.images, out)
    command = ["--model", world.text, "--questions", asked, "--out", out, "--max-new-tokens", _TOKENS]
    command += ["--image-folder", world.images, "--system", "it"]
    assert generate.main([*map(str, command)]) == 2
    assert "got system None, not system 'it'; move them away" in capsys.readouterr().err
    # A model that was trained anew in the same folder.
    copy = _without(world.text, "none", tmp_path / "copy")
    ask(copy, asked, world.images, tmp_path / "copy.jsonl")
    os.utime(copy / "model.safetensors", ns=(1, 1))
    command = [
        "--model",
        copy,
        "--questions",
        asked,
        "--out",
        tmp_path / "copy.jsonl",
        "--max-new-tokens",
        10,
    ]
    assert generate.main([*map(str, [*command, "--image-folder", world.images])]) == 2
    assert "model_files" in capsys.readouterr().err


def test_what_cannot_be_right_is_one_line_and_code_2(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: object, text: str = "what", *more: str, **fields: str) -> str:
        path = tmp_path / "q.jsonl"
        path.write_text(json.dumps({"question_id": 1, "text": text, **fields}))
        words = ["--model", str(folder), "--questions", str(path), "--out", str(tmp_path / "o.jsonl")]
        words += ["--image-folder", str(world.images), "--workers", "0", *more]
        assert generate.main(words) == 2
        assert not (tmp_path / "o.jsonl").exists()
        for left in (tmp_path / "o.jsonl.parts").glob("*"):
            left.unlink()
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("cotbal: ")
        return said

    assert "question 1: expected no picture, as Qwen2ForCausalLM takes text" in refused(
        world.text, image="0.png"
    )
    assert "expected at most 96 tokens, which are the model's positions, got" in refused(
        world.text, "there " * 99
    )
    assert "expected a chat template" in refused(_without(world.text, "chat_template.jinja", tmp_path / "n"))
    bare = _without(world.text, "tokenizer*", tmp_path / "bare")
    assert "expected a processor or tokenizer in the folder" in refused(bare)
    assert "none" in refused(tmp_path / "none")
    assert "1 of 1 questions have a picture that is not there" in refused(world.vision, image="no.png")


def _without(folder: Path, pattern: str, copy: Path) -> Path:
    copy.mkdir()
    for path in folder.iterdir():
        if not path.match(pattern):
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_the_prompt_of_a_question_is_that_of_a_training_record(world: World) -> None:
    """What `apply_chat_template` makes of a whole conversation begins with it, token by token."""
    loaded = load_chat(str(world.vision), None, torch.device("cpu"))
    question = Question(1, "what is it", "0.png", None)
    prompt = loaded.prompts([question], [[0]], [0], world.images)[0].inputs["input_ids"][0].tolist()
    parts = [
        {"type": "image", "image": Image.open(world.images / "0.png")},
        {"type": "text", "text": "what is it"},
    ]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    whole = loaded.template.processor.apply_chat_template([turns], tokenize=True, return_dict=True)[
        "input_ids"
    ][0]
    assert list(whole[: len(prompt)]) == prompt
    assert len(whole) > len(prompt)


@pytest.mark.parametrize("begins", [True, False])
def test_a_prompt_begins_once(begins: bool, world: World, tmp_path: Path) -> None:
    """As LLaVA-1.5's does, whose tokenizer begins a text that its template did not begin."""
    processor = beginning_processor(world, begins)
    folder = _without(world.vision, "tokenizer*", tmp_path / "beginning")
    processor.save_pretrained(folder)
    loaded = load_chat(str(folder), None, torch.device("cpu"))
    question = Question(1, "what is it", None, None)
    prompt = loaded.prompts([question], [[0]], [0], world.images)[0].inputs["input_ids"][0].tolist()
    assert prompt.count(1) == (2 if begins else 1)
    assert prompt[0] == 1


def test_the_precision(world: World) -> None:
    def precision(device: str, saved: torch.dtype | None, name: str = "auto") -> torch.dtype:
        return chat._dtype(name, Qwen2Config(dtype=saved), torch.device(device))

    assert precision("cpu", torch.bfloat16) == torch.float32
    assert precision("cuda", torch.float32) == precision("cuda", None) == torch.bfloat16
    assert precision("cuda", torch.float16) == torch.float16
    assert precision("cuda", torch.float16, "float32") == torch.float32
    loaded = load_chat(str(world.text), None, torch.device("cpu"), dtype="bfloat16", attention="eager")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["huggingface.yaml", "llamafactory.yaml"])
def test_the_recipes_evaluation_is_understood(name: str) -> None:
    """Every word of the command, up to the score."""
    recipe = next(path for path in recipe_files() if path.name == name).read_text()
    command = recipe.split("evaluate:")[1].split("command: >-")[1].split("&&")[0]
    words = shlex.split(command.replace("{", "").replace("}", ""))
    module = words.index("cotbal.integrations.huggingface.generate")
    options = generate._parser().parse_args(words[module + 1 :])
    assert (options.model, str(options.questions)) == ("model", "data")
    assert str(options.out) == "output/answers.jsonl"


def answered(world: World, said: str, before: str = "") -> str:
    """What is kept of what a model says, by a template that has `before` in front of each answer."""
    content = "{% if m.role == 'assistant' %}" + before + "{% endif %}{{ m.content }}"
    template = TEXT.replace("{{ m.content }}", content)
    words = load_template([str(world.text)], Kind(None, AutoTokenizer), template=template)
    # As Llama 3's; transformers 5 obeys it for such a tokenizer by the second word alone.
    words.tokenizer.clean_up_tokenization_spaces = True
    words.tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    prompt, new = (words.tokenizer(text, return_tensors="pt").input_ids for text in ("what", said))
    model = SimpleNamespace(
        device="cpu",
        dtype=torch.float32,
        generation_config=SimpleNamespace(eos_token_id=[3]),
        generate=lambda **_: torch.cat([prompt, new], dim=1),
    )
    asked = chat.Asked(0, {"input_ids": prompt})
    return Chat(model, words).answer(asked, 99)[0][0]


@pytest.mark.parametrize("before", ["<think>\n\n</think>\n\n", "<s>final</s>", "Answer: ", ""])
def test_what_a_template_has_before_each_answer_is_no_part_of_it(before: str, world: World) -> None:
    """A training by it has the model say that too, as Qwen3's empty thoughts or the channel of gpt-oss."""
    assert answered(world, f"{before}it is here<|end|><pad>", before) == "it is here"
    # The first answer of several may be the only one that has it.
    assert answered(world, "it is here<|end|>", before) == "it is here"
    assert answered(world, "final<|end|>", before) == "final"


def test_spaces_in_an_answer_stay(world: World) -> None:
    assert answered(world, "the man 's shirt , here .<|end|>") == "the man 's shirt , here ."
