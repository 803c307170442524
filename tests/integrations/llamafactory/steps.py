"""Eq. 2 over each recorded optimizer step, in float64 by a model of transformers and PEFT alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from tests.integrations.llamafactory.world import PICTURED, TASKS


@dataclass(frozen=True)
class Errors:
    """The largest over the steps, each relative to what is expected."""

    loss: float
    gradient: float
    tasks: frozenset[str]
    n_steps: int


def errors(
    model: Path, out: Path, recordings: Path, weights: dict[str, float], router: float = 0.0
) -> Errors:
    """How far the logged losses and the gradients of a run are from Eq. 2 with these weights by task.

    Args:
        model: what it started from.
        out: LLaMA-Factory's output folder.
        recordings: `record`'s folder, a file for each rank.
        weights: by the task that a row's own text names.
        router: what the mean of the routers' auxiliary loss over the micro-batches is multiplied by.
    """
    ranks = [torch.load(path, weights_only=True) for path in sorted(recordings.glob("rank*.pt"))]
    reference, tokenizer = _reference(model, out), AutoTokenizer.from_pretrained(model)
    logged = [
        each["loss"]
        for each in json.loads((out / "trainer_state.json").read_text())["log_history"]
        if "loss" in each
    ]
    worst_loss = worst_gradient = 0.0
    tasks: set[str] = set()
    for index, loss in enumerate(logged):
        reference.load_state_dict(ranks[0][index]["parameters"])
        reference.zero_grad()
        batches = [batch for rank in ranks for batch in rank[index]["batches"]]
        rows = [_tasks(tokenizer, batch) for batch in batches]
        tasks |= {task for each in rows for task in each}
        expected = _loss(reference, batches, [[weights[task] for task in each] for each in rows], router)
        worst_loss = max(worst_loss, abs(loss - float(expected)) / float(expected))
        for rank in ranks:
            worst_gradient = max(worst_gradient, _gradient_error(reference, rank[index]["gradients"]))
    return Errors(worst_loss, worst_gradient, frozenset(tasks), len(logged))


def _reference(model: Path, out: Path) -> Any:
    kind = AutoModelForImageTextToText if model.name in PICTURED else AutoModelForCausalLM
    # The grouped product of experts has no float64.
    options = {"experts_implementation": "eager"} if model.name == "mixtral" else {}
    reference = kind.from_pretrained(model, dtype=torch.float64, **options)
    if (out / "adapter_config.json").exists():
        reference = PeftModel.from_pretrained(reference, out, is_trainable=True).double()
    return reference.train()


def _tasks(tokenizer: Any, batch: dict[str, Tensor]) -> list[str]:
    texts = tokenizer.batch_decode(batch["input_ids"])
    return [next(task for task in TASKS if f"[{task}]" in text) for text in texts]


def _loss(model: Any, batches: list[dict[str, Tensor]], weights: list[list[float]], router: float) -> Tensor:
    """Eq. 2 over all of them, and its gradients into the model."""
    numerator, denominator = torch.zeros((), dtype=torch.float64), 0.0
    auxiliary = torch.zeros((), dtype=torch.float64)
    options = {"output_router_logits": True} if router else {}
    for batch, own in zip(batches, weights, strict=True):
        labels = batch["labels"][:, 1:]
        inputs = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"}, **options)
        logits = outputs.logits[:, :-1]
        auxiliary = auxiliary + (outputs.aux_loss if router else 0.0)
        # By hand: -log p of the label, 0 where there is none.
        terms = logits.logsumexp(-1) - logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        scale = torch.tensor(own, dtype=torch.float64)[:, None] * (labels != -100)
        numerator, denominator = numerator + (scale * terms).sum(), denominator + float(scale.sum())
    loss = numerator / denominator + router * auxiliary / len(batches)
    loss.backward()
    return loss.detach()


def _gradient_error(model: Any, gradients: dict[str, Tensor]) -> float:
    expected = {
        name: each.grad
        for name, each in model.named_parameters()
        if each.requires_grad and each.grad is not None
    }
    assert gradients
    assert set(gradients) <= set(expected), set(gradients) - set(expected)
    difference = torch.cat([(gradients[name].double() - expected[name]).flatten() for name in gradients])
    return float(difference.norm() / torch.cat([expected[name].flatten() for name in gradients]).norm())
