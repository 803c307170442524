"""One test question of every task, to be looked at."""

from __future__ import annotations

from typing import Any

from cotbal.demo.profiles import get_profile
from cotbal.demo.records import load_corpus


def samples(profile: str, seed: int) -> list[dict[str, Any]]:
    """The first test question of each task, as "task", "question", "answer", "image".

    The image is (24, 24, 3) uint8, None for a text-only task.
    """
    shown = []
    for task in get_profile(profile).all_tasks:
        corpus = load_corpus(profile, seed, task, "test")
        question, answer = (turn["value"] for turn in corpus.records[0]["conversations"])
        question = question.removeprefix("<image>\n")
        shown.append({"task": task, "question": question, "answer": answer, "image": corpus.image(0)})
    return shown
