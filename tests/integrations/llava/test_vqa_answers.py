"""VQAv2's soft accuracy beside that of LLaVA's own evaluation, whose rewriting is the server's."""

import random

import pytest
from llava.eval.m4c_evaluator import EvalAIAnswerProcessor, TextVQAAccuracyEvaluator

from cotbal.metrics import exact_match
from cotbal.metrics.vqa_answers import rewritten

WORDS = [
    "a",
    "An",
    "the",
    "two",
    "none",
    "Red",
    "dont",
    "couldnt've",
    "1,000",
    "2.5",
    "no.",
    "t-shirt",
    "what's",
]
MARKS = list(";/[]\"{}()=+\\_-><@`,?!.:'")


def _answers(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [
        "".join(draw.choice([*WORDS, *MARKS, " ", " "]) for _ in range(draw.randint(1, 8)))
        for _ in range(count)
    ]


def _theirs(answer: str) -> str:
    own = EvalAIAnswerProcessor()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    text: str = own.process_digit_article(own.process_punctuation(answer))
    return text


def test_answers_are_rewritten_alike() -> None:
    # Their list takes one apostrophe away; commas beside each other are in a number for them alone.
    for answer in [*EvalAIAnswerProcessor.CONTRACTIONS, *_answers(0, 20_000)]:
        if answer != "somebody'd" and ",," not in answer:
            assert rewritten(answer) == _theirs(answer), answer


def test_the_soft_accuracy_is_theirs() -> None:
    """Of answers that their other steps leave as they are, by ten people who do not agree."""
    draw, pool = random.Random(1), ["two", "2", "red", "the red", "t-shirt", "black/white", "dont", "none"]
    evaluator = TextVQAAccuracyEvaluator()
    for _ in range(200):
        people = [draw.choice(pool) for _ in range(9)] + ["else"]
        said = draw.choice(pool)
        wanted = evaluator.eval_pred_list([{"pred_answer": said, "gt_answers": people}])
        assert exact_match([said], [people], rule="soft") == pytest.approx([wanted])
