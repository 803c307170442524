"""`python -m cotbal.integrations.llava.generate`: prompts as in training, answers as LLaVA's one by one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llava
import pytest
import torch
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.train import train as llava_train
from PIL import Image
from safetensors.torch import load_file, save_file

from cotbal.collect.one_model import score_file
from cotbal.integrations.answering.questions import Question, read_questions
from cotbal.integrations.llava import generate, generation
from cotbal.integrations.llava.generation import Prompts, answer, load_checkpoint
from tests.integrations.llava.cases import Case
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World
from tests.ports import torchrun

# torch's deprecations in the code of LLaVA and transformers, an open file of LLaVA's.
pytestmark = pytest.mark.filterwarnings("ignore")
_TOKENS = 12


_CASES = {
    # It has learnt to end its answers.
    "whole": Case("whole", {"max_steps": 12}),
    "lora": Case("lora", {"max_steps": 1, "lora_enable": True}),
    "mistral": Case("mistral", {"max_steps": 1, "learning_rate": 0.001}, model="mistral"),
    # LLaVA's first stage, which trains and keeps the projector alone.
    "projector": Case("projector", {"max_steps": 1, "tune_mm_mlp_adapter": True, "learning_rate": 0.3}),
}


@pytest.fixture(scope="module")
def model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What LLaVA's training left."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def trained(name: str) -> Path:
        assert not (error := run(_CASES[name], world, folder).error), error
        return folder / name / "output"

    return trained


@pytest.fixture(scope="module")
def questions(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first question of each record, with a picture or without, some long: batches are padded much."""
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    lines: list[dict[str, Any]] = []
    for number, record in enumerate(json.loads(world.data.read_text())[:14]):
        question, answer = (turn["value"] for turn in record["conversations"][:2])
        image = {"image": record["image"]} if "image" in record else {}
        before = sum(("image" in line) == ("image" in record) for line in lines)
        text = question.removeprefix("<image>\n") * (6 if before % 3 == 1 else 1)
        lines.append({"question_id": number, **image, "text": text, "answer": answer, "task": "VQAv2"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def words(folder: Path, questions: Path, images: Path, out: Path, *more: object) -> list[str]:
    """The command line, answers of at most 12 tokens."""
    options = {"model": folder, "questions": questions, "image-folder": images, "out": out, "workers": 0}
    options |= {"max-new-tokens": _TOKENS}
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)] + [*map(str, more)]


def texts(path: Path) -> dict[Any, str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(row) == {"question_id", "text"} for row in rows)
    return {row["question_id"]: row["text"] for row in rows}


def test_prompts_and_pictures_are_those_of_the_training(
    world: World, model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Token for token up to where the answer begins, and pixel for pixel; some pictures are not square."""
    records = [r for r in json.loads(world.data.read_text()) if len(r["conversations"]) == 2][:12]
    for place, record in enumerate(records):
        if "image" in record:
            picture = Image.open(world.images / record["image"])
            record["image"] = f"{place}.png"
            picture.resize((60, 30) if place % 2 else (40, 40)).save(tmp_path / record["image"])
    (tmp_path / "data.json").write_text(json.dumps(records))
    checkpoint = load_checkpoint(llava, str(model("whole")), None, torch.device("cpu"), False)
    arguments = SimpleNamespace(
        image_folder=str(tmp_path),
        image_processor=checkpoint.processor,
        image_aspect_ratio="pad",
        is_multimodal=True,
        mm_use_im_start_end=False,
    )
    llava_train.conversation_lib.default_conversation = conv_templates["v1"]
    dataset = llava_train.LazySupervisedDataset(str(tmp_path / "data.json"), checkpoint.tokenizer, arguments)
    asked = [
        Question(n, r["conversations"][0]["value"].removeprefix("<image>\n"), r.get("image"), None)
        for n, r in enumerate(records)
    ]
    prompts = Prompts(llava, checkpoint, asked, [[n] for n in range(12)], range(12), tmp_path, "v1")
    for n, item in enumerate(dataset):
        batch = prompts[n]
        length = batch.input_ids.shape[1]
        assert batch.input_ids[0].tolist() == item["input_ids"][:length].tolist(), n
        rest = checkpoint.tokenizer.decode(item["input_ids"][length:], skip_special_tokens=True)
        assert rest == records[n]["conversations"][1]["value"]
        assert batch.mask.all()
        if asked[n].image is not None:
            assert torch.equal(batch.images[0], item["image"]), n
    assert {question.image is None for question in asked} == {True, False}


@pytest.fixture(scope="module")
def anyres(model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The trained model as LLaVA v1.6 takes pictures: in tiles, unpadded, each picture of rows of its own."""

    def configured(**more: object) -> Path:
        folder = tmp_path_factory.mktemp("anyres") / "model"
        shutil.copytree(model("whole"), folder)
        config = json.loads((folder / "config.json").read_text())
        side = 56  # of the tower
        config |= {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"} | more
        config["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
        (folder / "config.json").write_text(json.dumps(config))
        state = load_file(folder / "model.safetensors")
        state["model.image_newline"] = state["model.norm.weight"].clone()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return configured


def test_pictures_in_tiles(
    world: World, anyres: Callable[..., Path], questions: Path, tmp_path: Path, capsys: Any
) -> None:
    """A batch answers as one by one; a prompt that fits without its tiles alone is refused, not cut."""
    images = tmp_path / "images"
    images.mkdir()
    for place, path in enumerate(sorted(world.images.iterdir())):
        Image.open(path).resize((90, 30) if place % 2 else (40, 70)).save(images / path.name)
    whole, cut = anyres(), anyres(tokenizer_model_max_length=130)
    for size in (1, 5):
        out = tmp_path / f"{size}.jsonl"
        assert generate.main(words(whole, questions, images, out, "--batch-size", size)) == 0
    assert texts(tmp_path / "1.jsonl") == texts(tmp_path / "5.jsonl")
    capsys.readouterr()
    name = min(path.name for path in images.iterdir())
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"question_id": 7, "text": "What?", "image": name}))
    assert generate.main(words(cut, short, images, tmp_path / "cut.jsonl")) == 2
    assert "question 7: expected a prompt of at most 130 tokens with its picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["whole", "lora", *(pytest.param(name, marks=pytest.mark.full) for name in ("mistral", "projector"))],
)
def test_a_batch_answers_as_llava_does_one_by_one(
    name: str, world: World, model: Callable[[str], Path], questions: Path, tmp_path: Path
) -> None:
    base = ("--base", world.model("scaled")) if name == "projector" else ()
    for size in (1, 5):
        out = tmp_path / f"{size}.jsonl"
        more = ("--batch-size", size, *base)
        assert generate.main(words(model(name), questions, world.images, out, *more)) == 0
        assert list(texts(out)) == list(range(14))
    own = one_by_one(world, model(name), questions, "llava_mistral" if name == "mistral" else f"llava_{name}")
    assert texts(tmp_path / "1.jsonl") == texts(tmp_path / "5.jsonl") == own
    # What is asked matters; some answers end by themselves, and their rows go on with padding.
    assert len(set(own.values())) > 2


def one_by_one(world: World, folder: Path, questions: Path, name: str) -> dict[Any, str]:
    """As llava/eval/model_vqa_loader.py asks, without mask or batches, in float32."""
    base = str(world.model("scaled")) if "lora" in name or "projector" in name else None
    tokenizer, loaded, processor, _ = load_pretrained_model(
        str(folder), base, name, device_map="cpu", device="cpu"
    )
    loaded.float()
    found = {}
    for line in map(json.loads, questions.read_text().splitlines()):
        talk = conv_templates["vicuna_v1"].copy()
        talk.append_message(talk.roles[0], "<image>\n" * ("image" in line) + line["text"])
        talk.append_message(talk.roles[1], None)
        ids = tokenizer_image_token(talk.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[
            None
        ]
        given: dict[str, Any] = {}
        if "image" in line:
            picture = Image.open(world.images / line["image"]).convert("RGB")
            pixels = process_images([picture], processor, loaded.config)
            given = {"images": pixels.float(), "image_sizes": [picture.size]}
        output = loaded.generate(ids, do_sample=False, max_new_tokens=_TOKENS, use_cache=True, **given)
        found[line["question_id"]] = tokenizer.batch_decode(output, skip_special_tokens=True)[0].strip()
    return found


def test_padding_is_not_seen(
    world: World, model: Callable[[str], Path], questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of the first tokens, in a batch of long and short questions and one by one."""
    checkpoint = load_checkpoint(llava, str(model("whole")), None, torch.device("cpu"), False)
    own, seen = checkpoint.model.generate, []

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        output = own(*arguments, output_scores=True, return_dict_in_generate=True, **options)
        seen.append(torch.stack(output.scores[:2], dim=1))
        return output.sequences

    monkeypatch.setattr(checkpoint.model, "generate", watched)
    asked, _ = read_questions(questions)
    for pictured in (True, False):
        places = [n for n, question in enumerate(asked) if (question.image is not None) == pictured]
        batches = [places, *([n] for n in places)]
        prompts = Prompts(llava, checkpoint, asked, batches, range(len(batches)), world.images, "v1")
        assert prompts[0].mask.sum(1).min() < 0.8 * prompts[0].mask.shape[1]
        seen.clear()
        for place in range(len(batches)):
            answer(checkpoint, prompts[place], 2)
        torch.testing.assert_close(seen[0], torch.cat(seen[1:]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def ask(world: World, model: Callable[[str], Path], questions: Path, tmp_path: Path) -> Callable[..., int]:
    def asked(out: str, *more: object) -> int:
        return generate.main(
            words(model("whole"), questions, world.images, tmp_path / out, "--batch-size", 4, *more)
        )

    return asked


def test_shares_of_several_processes_are_put_together(
    ask: Callable[..., int], tmp_path: Path, questions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask("whole.jsonl") == 0
    for shard in (2, 0):
        assert ask("parts.jsonl", "--shard", f"{shard}/3") == 0
        assert not (tmp_path / "parts.jsonl").exists()
    assert ask("parts.jsonl", "--shard", "1/3") == 0
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.glob("parts*")} == {"parts.jsonl", "parts.jsonl.settings.json"}
    assert "14 answers in" in capfd.readouterr().out
    scored = score_file(questions, tmp_path / "parts.jsonl")
    right = {
        line["question_id"]: line["answer"] for line in map(json.loads, questions.read_text().splitlines())
    }
    given = texts(tmp_path / "parts.jsonl")
    assert scored.items == [
        float(given[n].lower().removesuffix(".") == right[n].lower().removesuffix(".")) for n in right
    ]


def test_what_is_done_is_not_generated_again(
    ask: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process, whose last line is torn; then another number of processes."""
    assert ask("whole.jsonl") == 0
    assert ask("again.jsonl", "--shard", "0/2") == 0
    part = tmp_path / "again.jsonl.parts" / "0-of-2.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines)[:-7])
    own, made = generation.answer, []

    def counted(checkpoint: Any, asked: Any, most: int) -> Any:
        made.append(asked.number)
        return own(checkpoint, asked, most)

    monkeypatch.setattr(generation, "answer", counted)
    assert ask("again.jsonl", "--shard", "0/2") == 0
    torn = json.loads(lines[-1])["batch"]
    assert made == [torn]
    assert ask("again.jsonl") == 0
    n_batches = len(lines) + len(made) - 1
    assert n_batches == len(set(made)) + len(lines) - 1
    assert not set(made[1:]) & {json.loads(line)["batch"] for line in lines}
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    made.clear()
    assert ask("again.jsonl") == 0
    assert made == []


def test_answers_of_other_settings_are_refused(
    ask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("out.jsonl", "--shard", "0/2") == 0
    assert ask("out.jsonl", "--max-new-tokens", 3) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "parts (with settings.json), got max_new_tokens 12, not max_new_tokens 3; move them away" in said
    assert ask("out.jsonl") == 0
    assert ask("out.jsonl", "--max-new-tokens", 3) == 2
    (tmp_path / "other.jsonl").write_text("mine\n")
    assert ask("other.jsonl") == 2
    assert (tmp_path / "other.jsonl").read_text() == "mine\n"


_GOOD = {"question_id": 1, "text": "What?", "image": "0.png"}
_BAD: dict[str, tuple[list[str], list[object], str]] = {
    "no question": ([json.dumps({"question_id": 1})], [], 'line 1: expected {"question_id", "text"'),
    "cut": ([json.dumps(_GOOD), json.dumps(_GOOD)[:-4]], [], "line 2: expected JSON, is the file whole?"),
    "twice": ([json.dumps(_GOOD)] * 2, [], "line 2: question_id 1 stands twice, first on line 1"),
    "empty": ([], [], "expected a question on each line, got none"),
    "no picture": (
        [json.dumps(_GOOD | {"image": "no.png"})],
        [],
        "1 of 1 questions have a picture that is not there",
    ),
    "picture that is none": (
        [json.dumps(_GOOD | {"image": "../records.json"})],
        ["--workers", 1],
        "cotbal: question 1: expected a picture in ",
    ),
    "no model": ([json.dumps(_GOOD)], ["--model", "."], "expected LLaVA's config.json in ."),
    "no template": ([json.dumps(_GOOD)], ["--conv-mode", "v9"], "--conv-mode: expected one of default, v0"),
    "another template": ([json.dumps(_GOOD)], ["--conv-mode", "v0"], "got 'v0' with '###'"),
    "too long": (
        [json.dumps(_GOOD | {"text": "long " * 300})],
        [],
        "expected a prompt of at most 256 tokens with its picture",
    ),
    # LLaVA takes it for a second picture.
    "a picture's place": (
        [json.dumps(_GOOD | {"text": "<image>\nWhat?"})],
        [],
        "question 1: expected a text without <image>",
    ),
    "no file": ([], ["--questions", "none.jsonl"], "got none.jsonl: No such file"),
}


@pytest.mark.parametrize("name", _BAD)
def test_what_cannot_be_right_is_one_line_and_code_2(
    name: str, world: World, model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, more, said = _BAD[name]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(lines))
    assert generate.main(words(model("whole"), path, world.images, tmp_path / "o.jsonl", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cotbal: ")
    assert said in error
    assert not (tmp_path / "o.jsonl").exists()


def start(*command: object) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, start_new_session=True)


@pytest.mark.full
def test_torchrun_killed_and_started_again(
    world: World, model: Callable[[str], Path], questions: Path, tmp_path: Path, ask: Callable[..., int]
) -> None:
    assert ask("whole.jsonl") == 0
    command = words(
        model("whole"), questions, world.images, tmp_path / "out.jsonl", "--batch-size", 1, "--workers", 1
    )
    module = ("-m", "cotbal.integrations.llava.generate")
    killed = start(*torchrun(2), *module, *command)
    parts = tmp_path / "out.jsonl.parts"
    while not any(path.stat().st_size for path in parts.glob("*-of-2.jsonl")):
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out.jsonl").exists()
    assert start(*torchrun(2), *module, *command).wait(200) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not parts.exists()
