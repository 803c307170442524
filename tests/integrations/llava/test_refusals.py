"""What cannot be right is refused before any training, in one sentence that says what to do."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llava.train.train import LazySupervisedDataset

import cotbal
from cotbal.integrations.llava.entry import main
from tests.integrations.llava.cases import WEIGHTS, Case
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.test_step_loss import Recordings
from tests.integrations.llava.world import World

# LLaVA does not close the file of its records.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _nothing_stays_patched() -> Iterator[None]:
    yield
    cotbal.unpatch()


def _read(world: World, folder: Path, change: Any) -> None:
    """LLaVA reads records of which the sixth was changed, and builds its dataset: no model is there yet."""
    records = json.loads(world.data.read_text())
    change(records[5])
    path = folder / "records.json"
    path.write_text(json.dumps(records))
    LazySupervisedDataset(str(path), tokenizer=None, data_args=None)


def test_a_record_without_a_task(world: World, tmp_path: Path) -> None:
    cotbal.patch(weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"caption-5.*'task'") as caught:
        _read(world, tmp_path, lambda record: record.pop("task"))
    assert _is_one_sentence(caught.value)


def test_a_record_of_an_unknown_task(world: World, tmp_path: Path) -> None:
    cotbal.patch(weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"caption-5.*'captions'.*did you mean 'caption'") as caught:
        _read(world, tmp_path, lambda record: record.update(task="captions"))
    assert _is_one_sentence(caught.value)


def test_weights_for_other_tasks(world: World, tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"VQAv2": 1.1, "GQA": 0.9}))
    cotbal.patch(weights=weights)
    with pytest.raises(ValueError, match=r"48 of 48 records.*VQAv2, GQA") as caught:
        _read(world, tmp_path, lambda record: None)
    assert _is_one_sentence(caught.value)


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights.*-1"):
        cotbal.patch(weights={"vqa": -1.0})
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        cotbal.patch(weights=tmp_path / "nowhere.json")


def test_patching_twice() -> None:
    cotbal.patch(weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"patched.*unpatch\(\)") as caught:
        cotbal.patch(weights=WEIGHTS)
    assert _is_one_sentence(caught.value)


def test_the_command_within_a_patch(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice patched, a step would be counted, and its loss taken, twice."""
    with cotbal.patch(weights=WEIGHTS):
        assert main(["--", "--data_path", str(world.data)]) == 2
    assert "llava: expected its own code, got patched code" in capsys.readouterr().err


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="level: expected one of auto, linear, logits, got 'fast'"):
        cotbal.patch(level="fast")
    with pytest.raises(ValueError, match="denominator: expected one of step, world, micro, got 'epoch'"):
        cotbal.patch(denominator="epoch")


def test_no_llava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llava", None)
    with pytest.raises(ImportError, match=r"no LLaVA.*pip install") as caught:
        cotbal.patch(weights=WEIGHTS)
    assert _is_one_sentence(caught.value)


@pytest.mark.parametrize("version", ["4.31.0", "4.36.2"])
def test_a_too_old_transformers(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    installed = importlib.metadata.Distribution.from_name("transformers")
    monkeypatch.setattr(type(installed), "version", property(lambda _: version))
    with pytest.raises(ImportError, match=rf"transformers.*got {version}.*4\.37\.2") as caught:
        cotbal.patch(weights=WEIGHTS)
    assert _is_one_sentence(caught.value)


_REFUSED = {
    "more accumulation than an epoch has micro-batches": (
        Case("long window", {"gradient_accumulation_steps": 8}, order=[0, 1, 2, 4] * 4),
        ("ValueError: gradient_accumulation_steps", "4 micro-batches of an epoch", "got 8"),
    ),
    "label smoothing": (
        Case("smoothing", {"label_smoothing_factor": 0.1}),
        ("ValueError: label_smoothing_factor: expected 0, got 0.1",),
    ),
    "a step's denominator is the micro-batch's with weights that change": (
        Case("micro", weights="dwa", patch={"denominator": "micro"}),
        ("ValueError: denominator: expected 'step' with DWA", "got 'micro'"),
    ),
}


@pytest.fixture(scope="module")
def refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    cases = [case for case, _ in _REFUSED.values()]
    return run_cases(world, tmp_path_factory.mktemp("refusals") / "runs", cases)


@pytest.mark.parametrize("name", _REFUSED)
def test_train_refuses(refused: Recordings, name: str) -> None:
    case, words = _REFUSED[name]
    run = refused[case.name][0]
    assert not any(step.micro_batches for step in run.steps.values()), "it trained"
    sentence = run.error.strip().splitlines()[-1]
    assert all(word in sentence for word in words), sentence


def _is_one_sentence(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 400
