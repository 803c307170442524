"""What every generation is made of, without a model: batches, parts of processes, words of the command."""

import json
from pathlib import Path

import pytest

from cotbal.integrations.answering.answers import Answers
from cotbal.integrations.answering.command import longest_answer, parser_of
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
