"""What every generation is made of, without a model: batches, parts of processes, words of the command."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cotbal.integrations.answering.answers import Answers
from cotbal.integrations.answering.command import _answered, _device, _settings, longest_answer, parser_of
from cotbal.integrations.answering.questions import Question, batches_of, read_questions


def test_a_part_has_one_writer(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.jsonl", {"model": 1}, [Question(1, "?", None, None)], [[0]])
    assert answers.begin()
    alone = pytest.raises(ValueError, match=r"0-of-2.jsonl: expected to write it alone")
    with answers.part(0, 2), alone, answers.part(0, 2):
        pass
    with answers.part(0, 2) as stream:
        answers.add(stream, 0, ["é"])
    assert answers.finish()
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"question_id": 1, "text": "é"}


def test_settings_that_no_answer_came_of_may_change(tmp_path: Path) -> None:
    """A word that was wrong does not stand in the way of the right one, while nobody answers under it."""

    def answers(model: str) -> Answers:
        return Answers(tmp_path / "a.jsonl", {"model": model}, [Question(1, "?", None, None)], [[0]])

    assert answers("typo").begin()
    refused = pytest.raises(ValueError, match="got model 'typo', not model 'mine'")
    with answers("typo").part(0, 1), refused:
        answers("mine").begin()
    mine = answers("mine")
    assert mine.begin()
    with mine.part(0, 1) as stream:
        mine.add(stream, 0, ["é"])
    with pytest.raises(ValueError, match="got model 'mine', not model 'typo'"):
        answers("typo").begin()


def test_a_file_of_another_origin_is_told_and_kept(tmp_path: Path) -> None:
    """It was compared, and thirteen settings were said to be None."""
    out = tmp_path / "a.jsonl"
    out.write_text("mine")
    answers = Answers(out, {"model": "m"}, [Question(1, "?", None, None)], [[0]])
    with pytest.raises(
        ValueError, match=r"got .*a\.jsonl without a\.jsonl\.settings\.json, .*; move it away"
    ) as told:
        answers.begin()
    assert "None" not in str(told.value)
    assert out.read_text() == "mine"


def _settings_of(model: Path) -> dict[str, Any]:
    words = ["--model", str(model), "--questions", "q", "--out", "o"]
    return _settings(parser_of("ask", "", "").parse_args(words), "digest", 128, torch.device("cpu"))


def test_answers_may_lie_beside_the_model(tmp_path: Path) -> None:
    """Those of one task, and a log, are no other model for the next one, or for the same one again."""
    (tmp_path / "config.json").write_text("{}")
    before = _settings_of(tmp_path)
    for name in ("gqa.jsonl", "answers"):
        answers = Answers(tmp_path / name, {"model": 1}, [Question(1, "?", None, None)], [[0]])
        answers.begin()
        with answers.part(0, 1) as stream:
            answers.add(stream, 0, ["yes"])
        assert answers.finish()
    # Where the shell writes what the command says, it grows from one process to the next.
    (tmp_path / "generate.log").write_text("cotbal: the first prompt: ...")
    assert _settings_of(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("")
    assert _settings_of(tmp_path) != before


def test_batches_are_of_one_kind_and_like_lengths() -> None:
    questions = [Question(n, "x" * (n * 7 % 20 + 1), "a.png" if n % 3 else None, None) for n in range(20)]
    batches = batches_of(questions, 4)
    assert sorted(n for batch in batches for n in batch) == list(range(20))
    for batch in batches:
        assert len(batch) <= 4
        assert len({questions[n].image is None for n in batch}) == 1
    for kind in (True, False):
        lengths = [len(questions[n].text) for b in batches for n in b if (questions[n].image is None) == kind]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("shard", ["4/4", "x", "1/0", "-1/2"])
def test_a_share_that_is_none(shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "m", "--questions", "q", "--out", "o", f"--shard={shard}"]
    with pytest.raises(SystemExit) as stopped:
        parser_of("ask", "", "").parse_args(words)
    assert stopped.value.code == 2
    assert "expected I/N with 0 <= I < N" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "x"])
def test_a_batch_of_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "m", "--questions", "q", "--out", "o", f"--batch-size={size}"]
    with pytest.raises(SystemExit):
        parser_of("ask", "", "").parse_args(words)
    assert f"expected a number above 0, got '{size}'" in capsys.readouterr().err


def test_captions_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question_id": 1, "text": "?", "task": "ShareGPT4V"}))
    questions, _ = read_questions(path)
    assert longest_answer(questions) == 1024
    assert longest_answer([questions[0]._replace(task="GQA")]) == 128


def test_a_thought_is_no_part_of_an_answer(tmp_path: Path) -> None:
    written = ["<think>\nit may be red\n</think>\n\nred", "\n</think>\n\nit", "red that", "a</think>"]

    class Thinks:
        def prompts(self, *_: Any) -> Any:
            raise AssertionError("not asked here")

        def answer(self, asked: Any, most: int) -> tuple[list[str], int]:
            assert (asked.number, most) == (0, 8)
            return written, 0

    options = argparse.Namespace(workers=0, questions=tmp_path / "a.jsonl", max_new_tokens=None)
    prompts: Any = [SimpleNamespace(number=0)]
    assert list(_answered(Thinks(), prompts, options, [[0, 1, 2, 3]], 8)) == [
        (0, ["red", "it", "red that", ""])
    ]


@pytest.mark.parametrize("there", [True, False])
def test_apples_gpu_is_used_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    assert _device().type == ("mps" if there else "cpu")
