"""From records to tensors: token ids, labels on answers only, length-bucketed batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cotbal.demo.records import Record
from cotbal.demo.tokenizer import ASSISTANT, END_ID, IMAGE, PAD_ID, USER, encode
from cotbal.demo.world import CELL, GRID

IGNORE = -100
IMAGE_TOKENS = GRID * GRID
PATCH = CELL
# Batches are cut from pools of this many batches, sorted by length: less padding, still random.
_POOL = 8


@dataclass(frozen=True, eq=False)
class Example:
    """One conversation: ids and labels of equal length, its picture if any, its task's id."""

    ids: list[int]
    labels: list[int]
    image: npt.NDArray[np.uint8] | None
    task_id: int


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's tensors.

    Attributes:
        input_ids: (B, S) int64.
        attention_mask: (B, S) int64, 0 on padding.
        labels: (B, S) int64, -100 everywhere but on answers.
        task_ids: (B,) int64.
        pixel_values: (images, 3, 24, 24) float32 in -1..1 of the rows with a picture, in order; else None.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    task_ids: torch.Tensor
    pixel_values: torch.Tensor | None

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model's forward and generate take; a text-only batch has no pixel_values key."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.pixel_values is not None:
            inputs["pixel_values"] = self.pixel_values
        return inputs


def encode_record(record: Record, image: npt.NDArray[np.uint8] | None, task_id: int) -> Example:
    """The whole conversation, labels on each answer and its end token."""
    ids: list[int] = []
    labels: list[int] = []
    turns = record["conversations"]
    for human, answer in zip(turns[::2], turns[1::2], strict=True):
        prompt = _prompt_ids(human["value"])
        reply = [*encode(answer["value"]), END_ID]
        ids += prompt + reply
        labels += [IGNORE] * len(prompt) + reply
    return Example(ids, labels, image, task_id)


def encode_prompt(record: Record, image: npt.NDArray[np.uint8] | None) -> Example:
    """The first question alone, ready for generation, where no task counts."""
    prompt = _prompt_ids(record["conversations"][0]["value"])
    return Example(prompt, [IGNORE] * len(prompt), image, 0)


def _prompt_ids(question: str) -> list[int]:
    expanded = question.replace(IMAGE, " ".join([IMAGE] * IMAGE_TOKENS))
    return encode(f"{USER} {expanded} {ASSISTANT}")


def collate(examples: Sequence[Example], device: str = "cpu", left: bool = False) -> Batch:
    """One batch, padded on the right for training or on the left for generation."""
    width = max(len(example.ids) for example in examples)

    def pad(values: list[int], filler: int) -> list[int]:
        filling = [filler] * (width - len(values))
        return filling + values if left else values + filling

    input_ids = torch.tensor([pad(e.ids, PAD_ID) for e in examples])
    images = [example.image for example in examples if example.image is not None]
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=(input_ids != PAD_ID).long().to(device),
        labels=torch.tensor([pad(e.labels, IGNORE) for e in examples]).to(device),
        task_ids=torch.tensor([e.task_id for e in examples]).to(device),
        pixel_values=to_pixels(images).to(device) if images else None,
    )


def to_pixels(images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures as (n, 3, 24, 24) float32 in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def epoch_batches(
    lengths: Sequence[int], epochs: int, batch_size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Indices of each batch: every example once per epoch, batches of similar lengths in random order."""
    sizes = np.asarray(lengths)
    pool = _POOL * batch_size
    for _ in range(epochs):
        order = rng.permutation(len(sizes))
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in pools])
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for index in rng.permutation(len(batches)):
            yield batches[index].tolist()
