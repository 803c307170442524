"""`python -m cotbal.integrations.swift.generate`: prompts of the training, greedy answers."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image

from cotbal.integrations.answering.questions import batches_of, read_questions
from cotbal.integrations.checkpoints import newest_checkpoint
from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from transformers import AutoProcessor, LlavaForConditionalGeneration, Qwen2ForCausalLM

from tests.integrations.swift.cases import Case, run_cases
from tests.integrations.swift.records import llava_records, questions, write_lines
from tests.integrations.swift.world import WEIGHTS, World

# Warnings of ms-swift and what it imports.
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
_TOKENS = 12
_FULL = '--tuner_type full --save_strategy epoch --columns {{"task":"channel"}}'
_LORA = f"{_FULL} --tuner_type lora --target_modules all-linear --learning_rate 0.1"
TEXT = (
    Case("chatml", f"{_FULL} --template chatml"),
    Case("a system message of the template", f"{_FULL} --template qwen2_5"),
    Case("a system message of the command", f"{_FULL} --template qwen2_5 --system Be_short."),
    Case("no system message", f"{_FULL} --template qwen2_5 --system="),
    Case("empty thoughts", f"{_FULL} --template qwen3"),
    Case("no thoughts", f"{_FULL} --template qwen3 --add_non_thinking_prefix false"),
    Case("LoRA", f"{_LORA} --template chatml"),
)
VISION = (
    Case("pictures", _FULL, kind="vision"),
    Case("pictures, LoRA", _LORA, kind="vision"),
)
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "runs"


@pytest.fixture(scope="module")
def results(world: World, runs: Path) -> Results:
    runs.mkdir()
    cases = []
    for case in (*TEXT, *VISION):
        data = runs / f"{case.kind}.json"
        records = [
            {"task": task, **each} for task in WEIGHTS for each in llava_records(world, task, case.kind)
        ]
        data.write_text(json.dumps(records))
        cases.append(Case(case.name, case.words, case.kind, data=(data,)))
    return run_cases(world, runs, cases)


def _asked(world: World, kind: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = [each for task in WEIGHTS for each in questions(world, task, kind)]
    return write_lines(folder / f"{kind}.jsonl", rows), rows


@pytest.mark.parametrize("case", [*TEXT, *VISION], ids=lambda case: case.name)
def test_prompts_are_those_of_the_training(
    world: World, results: Results, runs: Path, case: Case, tmp_path: Path
) -> None:
    """Token for token, all 24; the parts of a picture among them."""
    from swift.infer_engine import RequestConfig

    from cotbal.integrations.swift.chat import load_chat

    assert not results[case.name][0]["error"], results[case.name][0]["error"]
    path, _ = _asked(world, case.kind, tmp_path)
    asked, _ = read_questions(path)
    batches = batches_of(asked, 5)
    chat = load_chat(newest_checkpoint(runs / case.name), batch_size=5)
    prompts = chat.prompts(asked, batches, range(len(batches)), world.folder / "images")
    detailed = RequestConfig(max_tokens=1, temperature=0, return_details=True)
    made = [
        each.prompt_token_ids
        for batch in prompts
        for each in chat.engine.infer(batch.requests, detailed, use_tqdm=False)
    ]
    assert sorted(made) == sorted(results[case.name][0]["prompts"])
    assert len(made) == 24


@pytest.mark.parametrize("name", ["chatml", "empty thoughts", "LoRA", "pictures", "pictures, LoRA"])
def test_answers_are_greedy(
    world: World, results: Results, runs: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotbal.integrations.swift import chat, generate

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (case,) = (case for case in (*TEXT, *VISION) if case.name == name)
    path, rows = _asked(world, case.kind, tmp_path)
    checkpoint, images, out = (
        newest_checkpoint(runs / name),
        world.folder / "images",
        tmp_path / "answers.jsonl",
    )
    words = [
        "--model",
        str(runs / name),
        "--questions",
        str(path),
        "--image-folder",
        str(images),
        "--out",
        str(out),
    ]
    words += ["--batch-size", "5", "--max-new-tokens", str(_TOKENS), "--workers", "0"]
    assert generate.main(words) == 0
    answers = {line["question_id"]: line["text"] for line in map(json.loads, out.read_text().splitlines())}
    assert len(answers) == 24

    model = _model(world, case.kind, checkpoint)
    template = chat.load_chat(checkpoint).engine.template
    template.set_mode("transformers")
    processor = AutoProcessor.from_pretrained(world.vision)
    for question, row in zip(read_questions(path)[0], rows, strict=True):
        ids = template.encode(chat.request_of(question, images))["input_ids"]
        picture = {}
        if "image" in row:
            pixels = processor.image_processor(
                Image.open(images / row["image"]).convert("RGB"), return_tensors="pt"
            )
            picture = {"pixel_values": pixels["pixel_values"].double()}
        new = _greedy(model, ids, picture)
        assert answers[row["question_id"]] == template.tokenizer.decode(new, skip_special_tokens=True).strip()


def _model(world: World, kind: str, checkpoint: Path) -> Any:
    own, base = (
        (Qwen2ForCausalLM, world.text) if kind == "text" else (LlavaForConditionalGeneration, world.vision)
    )
    if not (checkpoint / "adapter_config.json").exists():
        return own.from_pretrained(checkpoint, dtype=torch.float64).eval()
    return (
        peft.PeftModel.from_pretrained(own.from_pretrained(base, dtype=torch.float64), checkpoint)
        .double()
        .eval()
    )


@torch.no_grad()
def _greedy(model: Any, prompt: Sequence[int], picture: Mapping[str, Any]) -> list[int]:
    ids, ends = list(prompt), {2, 4}
    for _ in range(_TOKENS):
        ids.append(int(model(input_ids=torch.tensor([ids]), **picture).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_a_folder_that_is_no_end_of_a_training(
    results: Results, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cotbal.integrations.swift.generate import main

    def said(folder: Path) -> str:
        path = write_lines(tmp_path / "q.jsonl", [{"question_id": 1, "text": "a"}])
        assert (
            main(["--model", str(folder), "--questions", str(path), "--out", str(tmp_path / "o.jsonl")]) == 2
        )
        return capsys.readouterr().err

    assert "expected a model, or an --output_dir with a checkpoint in it" in said(tmp_path)
    newest = newest_checkpoint(runs / "chatml")
    copy = tmp_path / "run" / newest.name
    shutil.copytree(newest, copy)
    state = json.loads((copy / "trainer_state.json").read_text())
    (copy / "trainer_state.json").write_text(json.dumps(state | {"max_steps": state["max_steps"] + 1}))
    assert f"step {state['global_step']} of {state['max_steps'] + 1}" in said(tmp_path / "run")
    (copy / "args.json").unlink()
    assert "expected a checkpoint of ms-swift, with its args.json" in said(copy)


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    """Not the one that was being written, nor that of ms-swift's link."""
    assert newest_checkpoint(tmp_path) is None
    for step, state in ((8, "{}"), (90, "{}"), (100, "{}"), (110, '{"best'), (120, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    (tmp_path / "last-checkpoint").symlink_to("checkpoint-90")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
