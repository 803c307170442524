"""Scores: prompts end where the answer begins, answers come from the model's own greedy generation."""

import pytest
import torch

from cotbal.demo import evaluate as module
from cotbal.demo.batches import collate, encode_prompt
from cotbal.demo.evaluate import evaluate, generate
from cotbal.demo.model import build_model
from cotbal.demo.profiles import PROFILES
from cotbal.demo.records import load_corpus
from cotbal.demo.tokenizer import ASSISTANT, VOCABULARY, decode

MICRO = PROFILES["micro"]


@pytest.mark.parametrize(("task", "metric"), [("chat", "EM"), ("caption", "CIDEr"), ("regcap", "CIDEr")])
def test_right_answers_score_fully_and_wrong_ones_nothing(
    task: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        record["conversations"][1]["value"] for record in load_corpus("micro", 0, task, "test").records
    ]

    def say_it(model: object, inputs: dict[str, torch.Tensor], limit: int) -> list[str]:
        assert (inputs["input_ids"][:, -1] == VOCABULARY[ASSISTANT]).all()
        # Room for the longest answer and its end.
        assert limit == max(len(answer.split()) for answer in answers) + 1
        return list(answers)

    model = build_model(MICRO, 0)
    monkeypatch.setattr(module, "generate", say_it)
    assert evaluate(model, MICRO, 0, task, "test")[metric] == pytest.approx(
        [1.0 if metric == "EM" else 10.0] * len(answers)
    )
    monkeypatch.setattr(module, "generate", lambda model, inputs, limit: ["]"] * len(answers))
    assert evaluate(model, MICRO, 0, task, "test")[metric] == [0.0] * len(answers)


def test_generation_takes_the_likeliest_word_each_time_whatever_the_padding() -> None:
    model = build_model(MICRO, 3).eval()
    corpora = [load_corpus("micro", 0, task, "test") for task in ("caption", "regcap")]
    prompts = [encode_prompt(corpus.records[0], corpus.image(0)) for corpus in corpora]
    together = generate(model, collate(prompts, left=True).inputs(), 6)
    for prompt, answer in zip(prompts, together, strict=True):
        batch = collate([prompt])
        ids = batch.input_ids
        with torch.no_grad():
            for _ in range(6):
                logits = model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=batch.pixel_values
                ).logits
                ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert answer == decode(ids[0, len(prompt.ids) :].tolist())
