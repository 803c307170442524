"""Scores of a model: real greedy generation, then the task's metric on every item."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import LlavaForConditionalGeneration

from cotbal.demo.batches import collate, encode_prompt
from cotbal.demo.profiles import Profile
from cotbal.demo.records import Image, Record, load_corpus
from cotbal.demo.tokenizer import decode, encode
from cotbal.metrics import box_iou, cider, exact_match

METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
    "EM": exact_match,
    "CIDEr": cider,
    "IoU": box_iou,
}


def evaluate(
    model: LlavaForConditionalGeneration,
    profile: Profile,
    seed: int,
    task: str,
    split: str,
    batch_done: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """The score of each item of a task's split, `{metric: [one float per item]}`, higher is better."""
    corpus = load_corpus(profile.name, seed, task, split)
    images = [corpus.image(place) for place in range(len(corpus.records))]
    metric = profile.metrics[task]
    return {metric: score(model, profile, metric, corpus.records, images, batch_done)}


def score(
    model: LlavaForConditionalGeneration,
    profile: Profile,
    metric: str,
    records: Sequence[Record],
    images: Sequence[Image | None],
    batch_done: Callable[[], None] = lambda: None,
) -> list[float]:
    """The score of each record's first question by a metric of `METRICS`; each with its picture, if any."""
    references = [record["conversations"][1]["value"] for record in records]
    prompts = [encode_prompt(record, image) for record, image in zip(records, images, strict=True)]
    # The longest right answer and its end token; what is longer is wrong anyway.
    limit = max(len(encode(text)) for text in references) + 1
    predictions: list[str] = []
    for start in range(0, len(prompts), profile.evaluation_batch):
        batch = collate(prompts[start : start + profile.evaluation_batch], str(model.device), left=True)
        predictions += generate(model, batch.inputs(), limit)
        batch_done()
    return METRICS[metric](predictions, references)


@torch.inference_mode()
def generate(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor], limit: int) -> list[str]:
    """The greedy answers to left-padded prompts, of at most `limit` words."""
    model.eval()
    output = model.generate(**inputs, do_sample=False, max_new_tokens=limit)
    return [decode(row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]
