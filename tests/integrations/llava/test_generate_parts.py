"""What generation is made of, without a model: batches, parts of several processes, words of the command."""

import json
import shlex
from pathlib import Path

import llava
import pytest
import torch

from cotbal.integrations.answering.answers import Answers
from cotbal.integrations.answering.command import longest_answer
from cotbal.integrations.answering.questions import Question, batches_of, read_questions
from cotbal.integrations.llava import generate
from cotbal.integrations.llava.generation import load_checkpoint
from cotbal.project import recipe_files

# torch's deprecations in the code of LLaVA and transformers.
pytestmark = pytest.mark.filterwarnings("ignore")


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
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--model", "m", "--questions", "q", "--out", "o", f"--shard={shard}"])
    assert stopped.value.code == 2
    assert "expected I/N with 0 <= I < N" in capsys.readouterr().err


def test_another_loader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As LLaVA-NeXT has it."""
    monkeypatch.setattr(llava.model.builder, "load_pretrained_model", lambda model_path, model_base: None)
    with pytest.raises(ImportError, match=r"expected the loader of LLaVA v1\.5"):
        load_checkpoint(llava, "m", None, torch.device("cpu"), False)


def test_the_recipes_evaluation_is_understood() -> None:
    """Every word of the command in `llava.yaml`, up to the score."""
    recipe = next(path for path in recipe_files() if path.name == "llava.yaml").read_text()
    command = recipe.split("evaluate:")[1].split("command: >-")[1].split("&&")[0]
    words = shlex.split(command.replace("{", "").replace("}", ""))
    assert words[:2] == ["torchrun", "--nproc_per_node"]
    options = generate._parser().parse_args(words[words.index("cotbal.integrations.llava.generate") + 1 :])
    assert (options.model, str(options.questions), str(options.out)) == (
        "model",
        "data",
        "output/answers.jsonl",
    )


def test_captions_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question_id": 1, "text": "?", "task": "ShareGPT4V"}))
    questions, _ = read_questions(path)
    assert longest_answer(questions) == 1024
    assert longest_answer([questions[0]._replace(task="GQA")]) == 128
