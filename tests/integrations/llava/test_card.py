"""What a real run leaves in its output folder: curves, the weights that it trained with, the model card."""

import json
import logging
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llava.train.train import preprocess
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import LlamaTokenizer

from cotbal.balancing import DWA, StaticWeights
from cotbal.integrations.llava.card import WEIGHTS_FILE, RunCard, save_weights
from cotbal.integrations.llava.card_section import TaskRow, card_section, command_line, with_section
from cotbal.weights import TaskWeights
from tests.integrations.llava.cases import WEIGHTS
from tests.integrations.llava.entry_runs import own_words, run_alone
from tests.integrations.llava.world import World

_GIVEN = TaskWeights(
    WEIGHTS,
    rule="cotbal",
    temperature=0.5,
    alpha=0.5,
    fixed={"chat": 0.5},
    provenance={"scores": "scores.csv"},
)
_KEYS = ("task_loss", "task_accuracy", "task_tokens", "task_weight")
_LOGGED = [5, 10]


@pytest.fixture(scope="module")
def output(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch, 12 steps, of which the last two are after the last logging."""
    folder = tmp_path_factory.mktemp("card")
    _GIVEN.save(folder / "weights.json")
    words = own_words(world, folder / "out", logging_steps=5, report_to="tensorboard")
    run = run_alone("--weights", folder / "weights.json", "--", *words, "--hub_token", "hf_secret")
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("cotbal: attention sdpa (no CUDA device)") == 1
    return folder / "out"


def test_the_curves_are_in_the_trainers_own_state(output: Path) -> None:
    history = _history(output)
    logged = [log for log in history if "task_tokens/vqa" in log]
    assert [log["step"] for log in logged] == _LOGGED
    for log in logged:
        assert {f"{key}/{task}" for key in _KEYS for task in WEIGHTS} <= log.keys()
        assert all(log[f"task_weight/{task}"] == pytest.approx(WEIGHTS[task]) for task in WEIGHTS)
    # LLaVA's own line stands beside it.
    assert [log["step"] for log in history if "loss" in log] == _LOGGED


def test_the_curves_are_in_tensorboard(output: Path) -> None:
    (file,) = output.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    for task in WEIGHTS:
        for key in _KEYS:
            points = {event.step: event.value for event in events.Scalars(f"train/{key}/{task}")}
            logged = {log["step"]: log[f"{key}/{task}"] for log in _history(output) if f"{key}/{task}" in log}
            # Event files hold float32.
            assert points == pytest.approx(logged, rel=1e-6)
            assert list(points) == _LOGGED


def test_the_weights_are_copied_with_where_they_came_from(output: Path) -> None:
    assert TaskWeights.load(output / WEIGHTS_FILE) == _GIVEN


def test_the_card_counts_every_record_and_token(output: Path, world: World, tasks: list[str]) -> None:
    """In an epoch each record's tokens are trained on once; LLaVA's own dataset tells how many those are."""
    records = json.loads(world.data.read_text())
    tokens: Counter[str] = Counter()
    for record, labels in zip(records, _labels(world), strict=True):
        tokens[record["task"]] += int((labels[1:] != -100).sum())
    rows = dict(re.findall(r"^\| (\w+) \| (\d.*) \|$", _card(output), flags=re.MULTILINE))
    expected = {task: f"{tasks.count(task)} | {tokens[task]:,} | {WEIGHTS[task]:.4f}" for task in WEIGHTS}
    assert rows == expected


def test_the_card_tells_how_it_was_trained(output: Path) -> None:
    card = _card(output)
    assert "Weights: by the rule 'cotbal', T 0.5, alpha 0.5, fixed chat" in card
    assert "Steps: 12, of 4 (processes 1, accumulated 1, per device 4) samples" in card
    for name in ("cotbal", "torch", "transformers", "accelerate", "peft", "deepspeed", "llava"):
        assert re.search(rf"\b{name} \d+\.\d", card), name
    assert "python -m cotbal.integrations.llava" in card
    assert "hf_secret" not in card


def test_a_section_replaces_the_one_before() -> None:
    one = card_section([TaskRow("a|b", 1, 2, 0.5)], ["one"], r"train \1", {"cotbal": "1"})
    two = card_section([TaskRow("a|b", 1, 4, 0.5)], ["two"], r"train \1", {"cotbal": "1"})
    card = with_section("---\nlicense: mit\n---\n# Mine\n", one) + "\nMy last words.\n"
    changed = with_section(card, two)
    assert changed == card.replace(one, two)
    assert with_section(changed, two) == changed
    assert r"| a\|b | 1 | 4 | 0.5000 |" in changed
    assert with_section("", one) == one + "\n"


@pytest.mark.parametrize("option", ["--hub_token", "--hub-token", "--push_to_hub_token"])
def test_secrets_are_not_shown(option: str) -> None:
    for words in ([option, "hf_x", "--bf16", "True"], [f"{option}=hf_x", "--bf16", "True"]):
        shown = command_line(["/bin/python", *words])
        assert "hf_x" not in shown
        assert shown.endswith("--bf16 True")
    assert "False" in command_line(["python", "--mm_use_im_patch_token", "False"])


def test_a_rule_is_kept_with_its_options(tmp_path: Path) -> None:
    path = save_weights(DWA(window=3, temperature=0.5, fixed={"chat": 1.0}), WEIGHTS, tmp_path / WEIGHTS_FILE)
    assert json.loads(path.read_text()) == {
        "schema_version": 1,
        "rule": "DWA",
        "options": {"window": 3, "temperature": 0.5},
        "fixed": {"chat": 1.0},
        "tasks": list(WEIGHTS),
    }
    with pytest.raises(ValueError, match="got the rule"):
        TaskWeights.load(path)


def test_equal_weights_are_kept_as_ones(tmp_path: Path) -> None:
    path = save_weights(StaticWeights(), WEIGHTS, tmp_path / WEIGHTS_FILE)
    assert TaskWeights.load(path) == TaskWeights(dict.fromkeys(WEIGHTS, 1.0), rule="equal")


def test_a_card_that_cannot_be_written_costs_no_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "README.md").mkdir()
    with caplog.at_level(logging.WARNING):
        _end_of_training(tmp_path, is_first=True)
    assert "README.md was not written" in caplog.text


def test_text_that_is_no_utf_8_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path on the command line, or the card that is there, may have Latin-1's bytes."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--image_folder", "/data/M\udcfcller"])
    _end_of_training(tmp_path, is_first=True)
    assert "'/data/M\\udcfcller'" in _card(tmp_path)
    card = "# M\u00fcller".encode("latin-1")
    (tmp_path / "README.md").write_bytes(card)
    with caplog.at_level(logging.WARNING):
        _end_of_training(tmp_path, is_first=True)
    assert "README.md was not written" in caplog.text
    assert (tmp_path / "README.md").read_bytes() == card


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    _end_of_training(tmp_path, is_first=False)
    assert not list(tmp_path.iterdir())
    _end_of_training(tmp_path, is_first=True)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.full
def test_pefts_card_keeps_the_section_and_a_second_run_replaces_it(world: World, tmp_path: Path) -> None:
    weights = _GIVEN.save(tmp_path / "weights.json")
    lora = {"lora_enable": True, "lora_r": 4, "max_steps": 2}
    for seed in (1, 2):
        words = own_words(world, tmp_path / "out", **lora, seed=seed)
        run = run_alone("--weights", weights, "--", *words)
        assert run.returncode == 0, run.stderr[-3000:]
        card = _card(tmp_path / "out")
        assert card.count("## Task weights") == 1
        assert f"--seed {seed}" in card
        assert "library_name: peft" in card


@pytest.mark.full
@pytest.mark.parametrize("logging", [3, 4])
def test_a_resumed_run_counts_from_its_start(
    world: World, output: Path, tmp_path: Path, logging: int
) -> None:
    """With a logging step at the checkpoint or without, the tokens of both halves are in the card."""
    shutil.copy(output / WEIGHTS_FILE, tmp_path / "weights.json")
    halves = {"save_strategy": "steps", "save_steps": 6, "logging_steps": logging}
    for steps in (6, 12):
        words = own_words(world, tmp_path / "out", **halves, max_steps=steps)
        run = run_alone("--weights", tmp_path / "weights.json", "--", *words)
        assert run.returncode == 0, run.stderr[-3000:]
    table = re.findall(r"^\| .* \|$", _card(tmp_path / "out"), flags=re.MULTILINE)
    assert table == re.findall(r"^\| .* \|$", _card(output), flags=re.MULTILINE)


def _end_of_training(folder: Path, is_first: bool) -> None:
    rule = StaticWeights(WEIGHTS).bind(WEIGHTS)
    balance: Any = SimpleNamespace(tasks=tuple(WEIGHTS), weighting=rule, logs=dict)
    args: Any = SimpleNamespace(
        output_dir=str(folder), world_size=1, gradient_accumulation_steps=1, per_device_train_batch_size=4
    )
    state: Any = SimpleNamespace(is_world_process_zero=is_first, log_history=[], global_step=0)
    card = RunCard(balance, Counter(), package="llava", loss="linear level")
    card.on_train_end(args, state, SimpleNamespace())  # type: ignore[arg-type]


def _labels(world: World) -> list[Any]:
    tokenizer = LlamaTokenizer.from_pretrained(
        world.model("scaled"), padding_side="right", model_max_length=256
    )
    tokenizer.pad_token = tokenizer.unk_token
    return [
        preprocess([record["conversations"]], tokenizer, has_image="image" in record)["labels"][0]
        for record in json.loads(world.data.read_text())
    ]


def _card(output: Path) -> str:
    return (output / "README.md").read_text()


def _history(output: Path) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return history
