"""Dialogues under the chat templates of many families: an answer is written as a generation would go on."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.finetune.records import read_files
from cotbal.integrations.huggingface.finetune.writing import DialogueWriter, Written
from tests.integrations.huggingface.finetune.world import record

trl = pytest.importorskip("trl")
SHIPPED = Path(trl.__file__).parent / "chat_templates"
# Templates that TRL ships as the models' own, with the tokens at which those models end.
STOPS = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "cohere2": ["<|END_OF_TURN_TOKEN|>"],
    "gemma": ["<end_of_turn>"],
    "gemma3": ["<end_of_turn>"],
    "gemma4": ["<turn|>"],
    "glm4moe": ["<|endoftext|>", "<|user|>"],
    "gptoss": ["<|return|>", "<|end|>"],
    "idefics3": ["<end_of_utterance>"],
    "lfm2_2_5_vl": ["<|im_end|>"],
    "llama3": ["<|eot_id|>"],
    "llava_next": ["</s>"],
    "phi3": ["<|end|>"],
    "qwen2_5": ["<|im_end|>"],
    "qwen2_5_vl": ["<|im_end|>"],
    "qwen3": ["<|im_end|>"],
    "qwen3_5_nothink": ["<|im_end|>"],
    "qwen3_5_think": ["<|im_end|>"],
    "qwen3_6": ["<|im_end|>"],
    "qwen3_vl": ["<|im_end|>"],
    "smolvlm": ["<end_of_utterance>"],
}
SEES = {
    "gemma3",
    "gemma4",
    "glm4moe",
    "idefics3",
    "lfm2_2_5_vl",
    "llava_next",
    "qwen2_5_vl",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_vl",
    "smolvlm",
}
THOUGHT = "<think>\n\n</think>\n\n"
NO_THOUGHT = {"enable_thinking": False}


class Seeing:
    """A processor as far as its template goes: messages come in parts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(*args, **options)


def writer(
    template: str, stops: list[str], *, sees: bool = False, variables: Mapping[str, Any] | None = None
) -> DialogueWriter:
    tokens = {*re.findall(r"<\|?[A-Za-z_]+\|?>", template), *stops, "<s>"}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=ByteLevelBPETokenizer()._tokenizer)
    tokenizer.add_tokens([AddedToken(token, special=True) for token in sorted(tokens)])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = "<s>", stops[0], template
    processor = Seeing(tokenizer) if sees else tokenizer
    return DialogueWriter(ChatTemplate(processor, variables=variables or {}), stops)


def written(own: DialogueWriter, folder: Path, *turns: tuple[str, str], **options: Any) -> Written:
    path = folder / "records.json"
    path.write_text(json.dumps([record(1, *turns, **options)]))
    return own.write(read_files([str(path)])[0]["item"])


def shipped(name: str) -> str:
    path = SHIPPED / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"TRL {trl.__version__} does not ship {name}")
    return path.read_text()


@pytest.mark.parametrize("variables", [{}, NO_THOUGHT], ids=["as it is", "no thought"])
@pytest.mark.parametrize("name", STOPS)
def test_each_answer_is_written_as_the_last_one_is(
    name: str, variables: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever follows, the first question and its answer are those of a record that ends there."""
    sees = name in SEES
    own = writer(shipped(name), STOPS[name], sees=sees, variables=variables)
    image = "0.png" if sees else None
    template = own.template
    question = template.message("user", ["", "what is it"] if sees else ["what is it"])
    prompt = template.written([question], asks=True)
    # One answer is a part of the words around it; one comes again.
    turns = [("what is it", "it"), ("and there", "red that"), ("and there", "red that"), ("which", "i")]
    alone = written(own, tmp_path, *turns[:1], image=image)
    assert alone.text.startswith(prompt)
    assert alone.answers[0][0] == len(prompt)
    whole = written(own, tmp_path, *turns, image=image)
    assert len(whole.answers) == 4
    texts = [whole.text[start:end] for start, end in whole.answers]
    # What comes before an answer is the same words in front of each.
    before = {text[: text.rfind(answer)] for text, (_, answer) in zip(texts[1:3], turns[1:3], strict=True)}
    assert len(before) == 1
    (lead,) = before
    assert [text.startswith(lead + answer) for text, (_, answer) in zip(texts, turns, strict=True)] == [
        True
    ] * 4
    assert all(any(text.endswith(stop) for stop in STOPS[name]) for text in texts)
    assert re.findall(r"what is it|and there|which", whole.text) == [question for question, _ in turns]
    if name != "gptoss":
        # Of that one the last answer ends otherwise.
        assert whole.text[: whole.answers[0][1]] == alone.text[: alone.answers[0][1]]
        assert len({text.removeprefix(lead) for text in texts[1:3]}) == 1


@pytest.mark.parametrize("name", ["qwen3_5_think", "qwen3_6", "qwen3_5_nothink", "qwen3"])
def test_of_an_empty_thought_in_the_prompt_nothing_is_trained(name: str, tmp_path: Path) -> None:
    own = writer(shipped(name), STOPS[name], variables=NO_THOUGHT)
    made = written(own, tmp_path, ("what", "red"), ("which", "it"))
    answers = [(made.text[start - len(THOUGHT) : start], made.text[start:end]) for start, end in made.answers]
    assert answers == [(THOUGHT, "red<|im_end|>"), (THOUGHT, "it<|im_end|>")]


def test_a_thought_that_the_prompt_begins_is_ended_before_each_answer(tmp_path: Path) -> None:
    own = writer(shipped("qwen3_6"), ["<|im_end|>"])
    made = written(own, tmp_path, ("what", "red"), ("which", "it"))
    assert [made.text[start - 8 : end] for start, end in made.answers] == [
        "<think>\n\n</think>\n\nred<|im_end|>",
        "<think>\n\n</think>\n\nit<|im_end|>",
    ]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        # Of an earlier answer only the end is left; it is in capitals; it lost its end.
        ("<a><e>", "begins the dialogue"),
        ("<a>{{ m.content | upper }}<e>", "begins the dialogue"),
        ("{% if loop.index0 > 1 %}<a>{{ m.content }}<e>{% endif %}", "begins the dialogue"),
    ],
)
def test_an_earlier_answer_that_is_written_in_another_way(history: str, said: str, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}<e>{% elif loop.last %}"
        f"<a><t></t>{{{{ m.content }}}}<e>{{% else %}}{history}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    own = writer(template, ["<e>"])
    same = ("and there", "red that")
    with pytest.raises(ValueError, match=r"records.json, record 1: expected a chat template") as refused:
        written(own, tmp_path, same, same, same)
    assert said in str(refused.value)
    assert "enable_thinking" in str(refused.value)


def test_tokens_behind_each_answer_are_trained_with_its_end(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<u>{{ m.content }}{% if m.role == 'assistant' %}<r>{% endif %}<e>{% endfor %}"
        "{% if add_generation_prompt %}<u>{% endif %}"
    )
    own = writer(template, ["<e>"])
    made = written(own, tmp_path, ("what", "red"), ("which", "<r>"))
    assert [made.text[start:end] for start, end in made.answers] == ["red<r><e>", "<r><r><e>"]
