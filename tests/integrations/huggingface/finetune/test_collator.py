"""The batch: the model's own words, the answers as labels, whatever else is in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AddedToken,
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from cotbal.integrations.answering.questions import Question
from cotbal.integrations.huggingface.chat import Prompts, load_chat
from cotbal.integrations.huggingface.chat_template import ChatTemplate, kind_of, load_template, pieces_of
from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT
from cotbal.integrations.huggingface.finetune.collator import AlwaysPictured, DialogueCollator
from cotbal.integrations.huggingface.finetune.records import STAND_IN, pictures_of, read_files
from tests.integrations.huggingface.chat_world import IMAGE, PATCH, World, beginning_processor, make_world
from tests.integrations.huggingface.finetune.world import batch_of, mixture, record, trained

_SEEN = "<image>" * (IMAGE // PATCH) ** 2 + "\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


def of_text(world: World, template: str | None = None) -> DialogueCollator:
    """The collator of the model of text alone, under its own chat template or another."""
    tokenizer = AutoTokenizer.from_pretrained(world.text)
    tokenizer.chat_template = template or tokenizer.chat_template
    return DialogueCollator(ChatTemplate(tokenizer), world.images, ["<|end|>"])


def test_the_tokens_and_the_labels_are_those_written_by_hand(world: World, tmp_path: Path) -> None:
    """Mixed rows in their order: with a picture and two turns, without one, with a shorter text."""
    processor = AutoProcessor.from_pretrained(world.vision)
    processor.tokenizer.pad_token = "</s>"
    collator = DialogueCollator(ChatTemplate(processor), world.images, ["<|end|>"])
    two = record(1, ("what is it", "red that"), ("which number", "here"), image="2.png")
    batch = batch_of(collator, tmp_path, two, record(2, ("what", "it is shown"), task="chat"))
    pieces = [
        (f"<s>user:{_SEEN}what is it<|end|><s>assistant:", False),
        ("red that<|end|>", True),
        ("<s>user:which number<|end|><s>assistant:", False),
        ("here<|end|>", True),
    ]
    others = [("<s>user:what<|end|><s>assistant:", False), ("it is shown<|end|>", True)]
    for row, expected in enumerate((pieces, others)):
        ids, labels = [], []
        for text, is_answer in expected:
            own = processor.tokenizer(text, add_special_tokens=False).input_ids
            ids += own
            labels += own if is_answer else [-100] * len(own)
        length = int(batch["attention_mask"][row].sum())
        assert batch["input_ids"][row, :length].tolist() == ids
        assert batch["labels"][row, :length].tolist() == labels
        assert (batch["input_ids"][row, length:] == processor.tokenizer.pad_token_id).all()
        assert (batch["labels"][row, length:] == -100).all()
    picture = Image.open(world.images / "2.png").convert("RGB")
    own = processor.image_processor(picture, return_tensors="pt").pixel_values
    assert torch.equal(batch["pixel_values"], own)


@pytest.mark.parametrize("newline", [False, True])
@pytest.mark.parametrize("image", ["0.png", None])
def test_what_precedes_an_answer_is_what_a_question_is_asked_with(
    newline: bool, image: str | None, world: World, tmp_path: Path
) -> None:
    """So a model is evaluated on the prompts that it was trained on."""
    chat = load_chat(str(world.vision), None, torch.device("cpu"), system="there", newline=newline)
    question = Question(1, "which number is it", image, None)
    prompt = chat.prompts([question], [[0]], [0], world.images)[0].inputs["input_ids"][0]
    processor = AutoProcessor.from_pretrained(world.vision)
    template = ChatTemplate(processor, system="there", newline=newline)
    collator = DialogueCollator(template, world.images, ["<|end|>"])
    batch = batch_of(collator, tmp_path, record(1, (question.text, "it"), image=image))
    first = int((batch["labels"][0] >= 0).nonzero()[0])
    assert torch.equal(batch["input_ids"][0, :first], prompt)
    assert trained(collator, batch) == ["it<|end|>"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_row_begins_once_as_a_question_does(begins: bool, world: World, tmp_path: Path) -> None:
    """LLaVA-1.5's tokenizer begins a text that its template did not begin."""
    template = ChatTemplate(beginning_processor(world, begins))
    collator = DialogueCollator(template, world.images, ["<|end|>"])
    batch = batch_of(collator, tmp_path, record(1, ("what", "it"), image="0.png"), record(2, ("is", "so")))
    question = Question(1, "what", "0.png", None)
    prompt = Prompts(template, None, [(0, [question])], world.images)[0].inputs["input_ids"][0]
    assert torch.equal(batch["input_ids"][0, : len(prompt)], prompt)
    assert prompt.tolist().count(1) == (2 if begins else 1)
    assert trained(collator, batch) == ["it<|end|>", "so<|end|>"]


@pytest.mark.parametrize(
    "value", ["<image>\nwhat is it", "what is it\n<image>", "<image>what is it", "what is it<image>"]
)
def test_a_picture_comes_first_wherever_the_record_has_it(value: str, world: World, tmp_path: Path) -> None:
    collator = DialogueCollator(
        ChatTemplate(AutoProcessor.from_pretrained(world.vision)), world.images, ["<|end|>"]
    )
    first, other = (record(1, ("what is it", "red"), image="0.png") for _ in range(2))
    other["conversations"][0]["value"] = value
    expected, batch = (batch_of(collator, tmp_path, each) for each in (first, other))
    assert torch.equal(expected["input_ids"], batch["input_ids"])


def test_messages_and_several_pictures(world: World, tmp_path: Path) -> None:
    collator = DialogueCollator(
        ChatTemplate(AutoProcessor.from_pretrained(world.vision), system="no"), world.images, ["<|end|>"]
    )
    turns = [("system", "that"), ("user", "is <image>\nit\n<image> here"), ("assistant", "it is")]
    messages = [{"role": role, "content": text} for role, text in turns]
    of_messages = {"messages": messages, "images": ["0.png", "2.png"], "task": "vqa"}
    batch = batch_of(collator, tmp_path, of_messages)
    text = collator.template.tokenizer.decode(batch["input_ids"][0])
    # A record's own system message takes the place of the one for all.
    assert text == f"<s>system:that<|end|><s>user:is {_SEEN}it{_SEEN} here<|end|><s>assistant:it is<|end|>"
    assert trained(collator, batch) == ["it is<|end|>"]
    assert len(batch["pixel_values"]) == 2


def _by_prompts(collator: DialogueCollator, folder: Path) -> torch.Tensor:
    """Labels by the processor's own ids of each answer's prompt, as a generation would be given them."""
    item = read_files([str(folder / "records.json")])[0]["item"]
    turns, template, end = item.dialogue.turns, collator.template, collator.writer.stops[0]
    ids = collator([{"item": item}])["input_ids"][0]
    expected = torch.full_like(ids, -100)
    pictures, messages = [], []
    for turn in turns:
        if turn.role == "assistant":
            text = template.written(messages, asks=True)
            shown = pictures_of(item, collator.folder)[: sum(pictures)]
            given = {"images": [shown]} if shown else {}
            start = template.processor(text=[text], **given)["input_ids"][0]
            assert list(start) == ids[: len(start)].tolist()
            answer = template.tokenizer(turn.text + end, add_special_tokens=False)["input_ids"]
            place = slice(len(start), len(start) + len(answer))
            expected[place] = ids[place]
            assert ids[place].tolist() == answer
        pictures.append(turn.text.count("<image>"))
        messages.append(template.message(turn.role, pieces_of(turn.text)))
    return expected


@pytest.mark.parametrize(
    "questions",
    [
        # As an answer before it has it, and what ends it.
        ["<image>what is it", "it", "<image>\nwhich is it", "so it", "<image><image> the number"],
        ["what is it", "<image>it"],
        ["<image>what is it", "<image>it", "<image>it"],
    ],
)
def test_pictures_in_later_questions(questions: list[str], world: World, tmp_path: Path) -> None:
    collator = DialogueCollator(
        ChatTemplate(AutoProcessor.from_pretrained(world.vision)), world.images, ["<|end|>"]
    )
    images = [f"{2 * n}.png" for n in range(" ".join(questions).count("<image>"))]
    given = record(1, *((question, "it") for question in questions)) | {"image": images}
    batch = batch_of(collator, tmp_path, given)
    assert batch["labels"][0].tolist() == _by_prompts(collator, tmp_path).tolist()
    assert trained(collator, batch) == ["it<|end|>" * len(questions)]
    assert len(batch["pixel_values"]) == len(images)


@pytest.mark.parametrize("place", [0, 1])
def test_a_question_that_looks_like_an_answer(place: int, world: World, tmp_path: Path) -> None:
    """Between two pictures, where answers are looked for: no guess which of them is trained on."""
    collator = DialogueCollator(
        ChatTemplate(AutoProcessor.from_pretrained(world.vision)), world.images, ["<|end|>"]
    )
    questions = ["<image>what is it", "<image>which is it"]
    questions[place] += "<|end|><s>assistant:it<|end|>"
    given = record(1, *((question, "it") for question in questions)) | {"image": ["0.png", "2.png"]}
    with pytest.raises(ValueError, match="record 1: expected questions without what the template puts"):
        batch_of(collator, tmp_path, given)


def test_a_length_that_would_cut_a_picture_off(world: World, tmp_path: Path) -> None:
    template = ChatTemplate(AutoProcessor.from_pretrained(world.vision))
    given = record(1, ("<image>what", "it"), ("<image>what", "red that")) | {"image": ["0.png", "2.png"]}
    whole = DialogueCollator(template, world.images, ["<|end|>"])
    labels = batch_of(whole, tmp_path, given)["labels"]
    # The last answer begins behind the last label of none.
    behind = int((labels[0] < 0).nonzero()[-1]) + 1
    short = DialogueCollator(template, world.images, ["<|end|>"], max_length=behind - 1)
    said = (
        f"record 1: expected its pictures within {behind - 1} tokens, got the answer behind the last of them"
    )
    with pytest.raises(ValueError, match=f"{said} after {behind}; raise --max_length"):
        batch_of(short, tmp_path, given)
    enough = DialogueCollator(template, world.images, ["<|end|>"], max_length=behind)
    assert torch.equal(batch_of(enough, tmp_path, given)["labels"], labels[:, :behind])


def test_a_model_of_text_alone(world: World, tmp_path: Path) -> None:
    collator = of_text(world)
    batch = batch_of(collator, tmp_path, *mixture(is_pictured=False)[:4])
    assert trained(collator, batch) == [
        "red that<|end|>",
        "it is shown 0<|end|>",
        "red that<|end|>the number is there<|end|>",
        "it is shown 1<|end|>",
    ]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_template_that_ends_no_answer_gets_the_tokenizers_end(world: World, tmp_path: Path) -> None:
    """As LLaVA-1.5's; otherwise the model would not learn to stop."""
    collator = of_text(
        world,
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        ),
    )
    batch = batch_of(collator, tmp_path, record(1, ("what", "red that"), ("which", "it is")))
    assert trained(collator, batch) == [" red that<|end|> it is<|end|>"]
    text = collator.template.tokenizer.decode(batch["input_ids"][0])
    assert text == "user: what assistant: red that<|end|> user: which assistant: it is<|end|> "


def test_what_a_template_puts_before_an_answer_is_learned_too(world: World, tmp_path: Path) -> None:
    """An empty thinking block, which a generation would have to write as well."""
    collator = of_text(
        world,
        (
            "{% for m in messages %}<s>{{ m.role }}:{% if m.role == 'assistant' %}<think></think>{% endif %}"
            "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
        ),
    )
    # One answer is a part of that block.
    batch = batch_of(collator, tmp_path, record(1, ("what", "th"), ("which", "it")))
    # Not the line after the end, which nobody would generate.
    assert trained(collator, batch) == ["<think></think>th<|end|><think></think>it<|end|>"]


def test_long_rows_are_cut_within_their_answers(world: World, tmp_path: Path) -> None:
    template = ChatTemplate(AutoProcessor.from_pretrained(world.vision))
    whole = DialogueCollator(template, world.images, ["<|end|>"])
    records = [record(n, ("what is it", "red that " * 4), image="0.png") for n in range(2)]
    records[1] = record(1, ("what", "it"), task="chat")
    expected = batch_of(whole, tmp_path, *records)
    first = int((expected["labels"][0] >= 0).nonzero()[0])
    cut = DialogueCollator(template, world.images, ["<|end|>"], max_length=first + 2)
    batch = batch_of(cut, tmp_path, *records)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[name], expected[name][:, : first + 2])
    none = DialogueCollator(template, world.images, ["<|end|>"], max_length=first)
    with pytest.raises(ValueError, match=rf"record 1: expected an answer within {first} tokens, got none"):
        batch_of(none, tmp_path, *records)
    length = int(expected["attention_mask"][0].sum())
    for few, most in ((first, None), (length - 1, None), (first, first + 1)):
        short = DialogueCollator(template, world.images, ["<|end|>"], positions=few, max_length=most)
        with pytest.raises(ValueError, match=rf"record 1: expected at most {few} tokens, which are the mod"):
            batch_of(short, tmp_path, *records)
    for enough, most in ((length, None), (first + 1, first + 1)):
        fits = DialogueCollator(template, world.images, ["<|end|>"], positions=enough, max_length=most)
        assert batch_of(fits, tmp_path, *records)["labels"].shape[1] == enough


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}<s>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}<s>answer:", "begins the"),
        (
            "{% for m in messages %}<s>{{ m.role }}:{{ m.content | upper }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant:{% endif %}",
            "that writes its answers as they are",
        ),
        (
            "{% for m in messages %}<s>{{ m.role }}:{{ m.content }} so<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant:{% endif %}",
            "right behind each, got 'it so<|end|>' for 'it'",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_with(
    template: str, said: str, world: World, tmp_path: Path
) -> None:
    collator = of_text(world, template)
    with pytest.raises(ValueError, match=r"records.json, record 1: expected a chat template") as refused:
        batch_of(collator, tmp_path, record(1, ("what", "it")))
    assert said in str(refused.value)


def test_an_empty_answer_is_its_end(world: World, tmp_path: Path) -> None:
    collator = of_text(world)
    batch = batch_of(collator, tmp_path, record(1, ("what", ""), ("is", "it")))
    assert trained(collator, batch) == ["<|end|>it<|end|>"]


def test_an_end_within_an_answer(world: World, tmp_path: Path) -> None:
    collator = of_text(world)
    with pytest.raises(ValueError, match="expected a chat template that writes its answers as they are"):
        batch_of(collator, tmp_path, record(1, ("what", "it <|end|> is")))


def test_a_processor_that_writes_other_tokens(world: World, tmp_path: Path) -> None:
    """Nobody could say which of them are the answer's."""

    class Ending(LlavaProcessor):
        def __call__(self, *args: Any, text: list[str], **options: Any) -> Any:
            return super().__call__(*args, text=[each + "there" for each in text], **options)

    processor = Ending.from_pretrained(world.vision)
    collator = DialogueCollator(ChatTemplate(processor), world.images, ["<|end|>"])
    with pytest.raises(ValueError, match="record 1: expected the processor's tokens to end as the tokenizer"):
        batch_of(collator, tmp_path, record(1, ("what", "it"), image="0.png"))


@pytest.mark.parametrize("answer", [" red", "\nred", "red \n"])
def test_white_space_around_an_answer_is_not_trained(answer: str, world: World, tmp_path: Path) -> None:
    """Behind a token that takes it in, as Phi-3's do, it would make the prompt's last token a label."""
    collator = of_text(world)
    ends = ["<|end|>", "<s>"]
    own = [AddedToken(text, rstrip=True, special=True) for text in ends]
    collator.template.tokenizer.add_special_tokens({"additional_special_tokens": own})
    plain, spaced = (
        batch_of(collator, tmp_path, record(1, ("what", text), ("which", "it"), task="chat"))
        for text in ("red", answer)
    )
    for name, value in plain.items():
        assert torch.equal(value, spaced[name])
    assert trained(collator, spaced) == ["red<|end|>it<|end|>"]


def test_a_template_that_is_with_the_tokenizer_alone(world: World, tmp_path: Path) -> None:
    """As older versions of transformers saved it."""
    folder = tmp_path / "model"
    shutil.copytree(world.vision, folder)
    own = json.loads((folder / "tokenizer_config.json").read_text())
    own["chat_template"] = (folder / "chat_template.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "chat_template.jinja").unlink()
    kind = kind_of(AutoConfig.from_pretrained(folder))
    made = load_template([str(folder)], kind)
    assert made.written([made.message("user", ["", "what"])], asks=True).endswith("assistant:")


def test_a_file_that_is_no_picture(world: World, tmp_path: Path) -> None:
    collator = DialogueCollator(
        ChatTemplate(AutoProcessor.from_pretrained(world.vision)), tmp_path, ["<|end|>"]
    )
    (tmp_path / "no.png").write_text("none")
    with pytest.raises(ValueError, match=r"record 1: expected a picture in .*no.png"):
        batch_of(collator, tmp_path, record(1, ("what", "it"), image="no.png"))


def test_every_batch_has_a_picture(world: World, tmp_path: Path) -> None:
    """One without gets a row that is in no sum; what the other rows train stays."""
    processor = AutoProcessor.from_pretrained(world.vision)
    made = AlwaysPictured(
        DialogueCollator(ChatTemplate(processor), world.images, ["<|end|>"]), ["vqa", "chat"]
    )
    (tmp_path / "records.json").write_text(json.dumps(mixture()))
    records = read_files([str(tmp_path / "records.json")])
    pictured, plain = (made([records[n], records[n + 2]]) for n in (0, 1))
    assert len(pictured["labels"]) == len(pictured["pixel_values"]) == len(pictured[TASK_IDS]) == 2
    assert len(plain["labels"]) == len(plain[TASK_IDS]) == 3
    assert len(plain["pixel_values"]) == 1
    assert (plain["input_ids"][2] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 4
    assert (plain["labels"][2] == -100).all()
    assert plain[VALID_COUNT] == int((plain["labels"] >= 0).sum())

    model = LlavaForConditionalGeneration.from_pretrained(world.vision).double()
    alone = made.collator([records[1], records[3]])
    losses = []
    for batch in (alone, plain):
        given = {
            name: batch[name]
            for name in ("input_ids", "attention_mask", "labels", "pixel_values")
            if name in batch
        }
        given = {name: v.double() if v.is_floating_point() else v for name, v in given.items()}
        losses.append(model(**given).loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    losses[1].backward()
    assert all(each.grad is not None for each in model.model.multi_modal_projector.parameters())
    assert not any(each.grad.any() for each in model.model.multi_modal_projector.parameters())


def test_a_length_without_room_for_a_picture(world: World, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(world.vision)
    short = DialogueCollator(ChatTemplate(processor), world.images, ["<|end|>"], max_length=8)
    with pytest.raises(
        ValueError, match="the blank picture of batches without one: expected an answer within 8"
    ):
        short([{"item": STAND_IN}])
