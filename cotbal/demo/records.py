"""Conversations in LLaVA's record form, their nested subsets, and the mixtures that runs train on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cotbal.demo.profiles import Profile, get_profile
from cotbal.demo.questions import TASKS, Task, Turn, align
from cotbal.demo.world import BLANK, MAX_DIGITS, Scene, draw_scene, load_sources

Record = dict[str, Any]
Image = npt.NDArray[np.uint8]
ALIGN = "align"


@dataclass(frozen=True, eq=False)
class Corpus:
    """The conversations of one task and split.

    Attributes:
        records: `{"id", "image"?, "conversations": [{"from", "value"}, ...], "task"}`.
        scenes: the scene behind each record, in order; a blank one for a text-only task.
    """

    records: tuple[Record, ...]
    scenes: tuple[Scene, ...]

    def image(self, index: int) -> Image | None:
        """The picture of a record, (24, 24, 3) uint8, or None for text only."""
        return self.scenes[index].image if "image" in self.records[index] else None


def random_source(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names only, not on what was drawn before."""
    return np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])


def make_record(identity: str, task: str, turns: list[Turn], instruction: str, image: bool) -> Record:
    """One conversation; the instruction stands once, at the end of the first question."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        value = f"{question} {instruction}" if index == 0 and instruction else question
        if index == 0 and image:
            value = f"<image>\n{value}"
        conversations += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    record: Record = {"id": identity, "conversations": conversations, "task": task}
    if image:
        record["image"] = f"{identity}.png"
    return record


@lru_cache(maxsize=64)
def load_corpus(profile: str, seed: int, task: str, split: str) -> Corpus:
    """The conversations of a task: all of them for "train", one question each for the evaluation splits.

    The same arguments give the same corpus. Scenes of a split hold digits of that split only.
    """
    settings, kind = get_profile(profile), TASKS[task]
    train = split == "train"
    size = settings.conversations[task] if train else settings.evaluation_items
    rng = random_source(seed, "corpus", task, split)
    pairs = [_draw(rng, kind, split, kind.turns if train else 1) for _ in range(size)]
    records = [
        make_record(f"{task}-{split}-{index:05d}", task, turns, kind.instruction, kind.least_digits > 0)
        for index, (_, turns) in enumerate(pairs)
    ]
    return Corpus(tuple(records), tuple(scene for scene, _ in pairs))


def _draw(rng: np.random.Generator, task: Task, split: str, turns: int) -> tuple[Scene, list[Turn]]:
    scene = BLANK
    if task.least_digits:
        scene = draw_scene(rng, load_sources(split), int(rng.integers(task.least_digits, MAX_DIGITS + 1)))
    return scene, task.ask(scene, rng)[:turns]


def alignment_corpus(seed: int, size: int) -> Corpus:
    """Dense descriptions of scenes of the training digits, for the base stage."""
    rng, sources = random_source(seed, "alignment"), load_sources("train")
    # Full scenes teach more per step than empty ones.
    scenes = [draw_scene(rng, sources, int(rng.integers(3, MAX_DIGITS + 1))) for _ in range(size)]
    records = [
        make_record(f"{ALIGN}-{index:05d}", ALIGN, align(scene, rng), "", image=True)
        for index, scene in enumerate(scenes)
    ]
    return Corpus(tuple(records), tuple(scenes))


def subset(profile: Profile, seed: int, task: str, share: str) -> list[int]:
    """Indices, ascending, of a seeded random share of a task: "mini", "full" or a fraction such as "1/4".

    Subsets are nested: that of a smaller share lies within that of a larger one.
    """
    order = random_source(seed, "mini", task).permutation(profile.conversations[task])
    return sorted(order[: profile.size(task, share)].tolist())


def mixture(profile: Profile, seed: int, data: Mapping[str, str]) -> list[tuple[str, list[int]]]:
    """What a run trains on: each task with the indices of its training records, in the profile's order."""
    profile.run_size(data)
    return [(task, subset(profile, seed, task, data[task])) for task in profile.all_tasks if task in data]
