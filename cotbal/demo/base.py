"""The base stage: from random weights to the "pretrained LMM" that every run starts from.

From random weights the tasks never learn to look at the picture in the demo's time. So the vision tower first
learns what each patch shows, as CLIP comes pretrained; then the whole model learns to list a scene's content,
as LLaVA aligns vision and language before instruction tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from cotbal._draws import own_draws
from cotbal.balancing import StaticWeights
from cotbal.demo.batches import IGNORE, encode_record, epoch_batches, to_pixels
from cotbal.demo.model import build_model
from cotbal.demo.profiles import HEAD_STEPS_PER_STEP, Profile, head_units
from cotbal.demo.records import Corpus, alignment_corpus, random_source
from cotbal.demo.train import Outcome, Report, fit, make_optimizer, update
from cotbal.demo.world import COLORS, GRID, SIZE, Scene

# Classes of each head: the digit or none, its colour or none, and the four sides of its box.
_HEADS = (11, len(COLORS) + 1, *[SIZE + 1] * 4)


def train_base(
    profile: Profile, seed: int, device: str, report: Report
) -> tuple[LlavaForConditionalGeneration, Outcome]:
    """The base model of a seed and how its alignment ended."""
    corpus = alignment_corpus(seed, profile.base_scenes)
    model = build_model(profile, seed).to(device)
    train_vision(model, corpus.scenes, profile, seed, report)
    units = head_units(profile)
    outcome = _align(model, corpus, profile, seed, lambda done: report(units + done))
    return model, outcome


def _align(
    model: LlavaForConditionalGeneration, corpus: Corpus, profile: Profile, seed: int, report: Report
) -> Outcome:
    examples = [encode_record(record, corpus.image(i), 0) for i, record in enumerate(corpus.records)]
    lengths = [len(example.ids) for example in examples]
    batches = _batches(lengths, profile.alignment_steps, profile.batch_size, random_source(seed, "align"))
    weighting = StaticWeights().bind(["alignment"], model.device)
    return fit(model, examples, batches, profile.alignment_steps, weighting, profile, report)


def train_vision(
    model: LlavaForConditionalGeneration,
    scenes: Sequence[Scene],
    profile: Profile,
    seed: int,
    report: Report,
) -> None:
    """The vision tower learns to tell digit, colour and box of each patch by heads that are thrown away."""
    tower = model.model.vision_tower
    with own_draws(seed):
        heads = torch.nn.Linear(profile.vision_hidden, sum(_HEADS)).to(model.device)
    module = torch.nn.ModuleList([tower, heads]).train()
    optimizer, schedule = make_optimizer(
        module.parameters(), profile.head_steps, profile.head_learning_rate, profile.warmup
    )
    pixels = to_pixels([scene.image for scene in scenes]).to(model.device)
    targets = torch.from_numpy(patch_targets(scenes)).to(model.device)
    rng = random_source(seed, "heads")
    batches = _batches([1] * len(scenes), profile.head_steps, profile.head_batch_size, rng)
    for done, indices in enumerate(batches, start=1):
        # Without the class token: one feature per patch, the same that the projector takes.
        features = tower(pixels[indices]).last_hidden_state[:, 1:]
        update(_head_loss(heads(features), targets[indices]), module, optimizer, schedule)
        report(done // HEAD_STEPS_PER_STEP)


def patch_targets(scenes: Sequence[Scene]) -> npt.NDArray[np.int64]:
    """What each head should say of each patch, (scenes, 9, 6) int64; an empty patch has no box (-100)."""
    targets = np.empty((len(scenes), GRID * GRID, len(_HEADS)), np.int64)
    targets[:] = (_HEADS[0] - 1, _HEADS[1] - 1, *[IGNORE] * 4)
    names = list(COLORS)
    for row, scene in zip(targets, scenes, strict=True):
        for digit in scene.digits:
            row[digit.cell] = (digit.value, names.index(digit.color), *digit.box)
    return targets


def _batches(
    lengths: Sequence[int], steps: int, batch_size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    per_epoch = -(-len(lengths) // batch_size)
    return islice(epoch_batches(lengths, -(-steps // per_epoch), batch_size, rng), steps)


def _head_loss(logits: Tensor, targets: Tensor) -> Tensor:
    parts = logits.flatten(0, 1).split(_HEADS, dim=-1)
    columns = targets.flatten(0, 1).unbind(-1)
    losses = [F.cross_entropy(p, c, ignore_index=IGNORE) for p, c in zip(parts, columns, strict=True)]
    return torch.stack(losses).sum()
