"""What each optimizer step of ms-swift trained on, its loss and its gradients, and Eq. 2 for them in float64.

Nothing of cotbal is asked: a record's task is read in its own answer, the model is read from disk again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from peft import get_peft_model
from swift.trainers import Seq2SeqTrainer
from swift.tuners import Swift, SwiftModel
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2ForCausalLM,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)

_INPUTS = ("input_ids", "attention_mask", "position_ids", "pixel_values", "image_grid_thw")


@dataclass
class Step:
    """One optimizer step on this rank.

    Attributes:
        batches: what each micro-batch was.
        losses: what `training_step` returned for each.
        parameters: those that are trained, as they were before the step.
        gradients: theirs, just before the step.
    """

    batches: list[dict[str, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


class Recorder(TrainerCallback):
    """Notes the steps of the trainer that is made while `recording`."""

    def __init__(self) -> None:
        self.steps = [Step()]
        self.trainer: Any = None

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        step = self.steps[-1]
        for name, parameter in self.trainer.accelerator.unwrap_model(self.trainer.model).named_parameters():
            if parameter.requires_grad:
                step.parameters[name] = parameter.detach().clone()
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                step.gradients[name] = gradient.clone()
        self.steps.append(Step())

    def results(self, weights: dict[str, float]) -> dict[str, Any]:
        """The steps with this rank's share of Eq. 2, and the losses that the trainer logged."""
        model, self.steps = _model(self.trainer.model), self.steps[:-1]
        logged = [entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry]
        evaluated = [entry["eval_loss"] for entry in self.trainer.state.log_history if "eval_loss" in entry]
        router = getattr(self.trainer.args, "router_aux_loss_coef", 0.0)
        tokenizer = self.trainer.processing_class
        share = [_share(model, step, weights, tokenizer, router) for step in self.steps]
        level = getattr(getattr(self.trainer, "installed", None), "level", None)
        tasks = getattr(self.trainer, "tasks", None)
        found = {"steps": share, "logged": logged, "level": level, "tasks": tasks, "evaluated": evaluated}
        return found | {"prompts": [each for step in self.steps for each in _prompts(step)]}


@contextmanager
def recording() -> Iterator[Recorder]:
    """The next Seq2SeqTrainer, of whichever class made from it, is noted."""
    recorder, own_init, own_step = Recorder(), Seq2SeqTrainer.__init__, Seq2SeqTrainer.training_step

    def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
        own_init(trainer, *args, **kwargs)
        recorder.trainer = trainer
        trainer.add_callback(recorder)

    def training_step(
        trainer: Any, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        kept = {key: inputs[key].clone() for key in (*_INPUTS, "labels") if inputs.get(key) is not None}
        loss = own_step(trainer, model, inputs, *args, **kwargs)
        recorder.steps[-1].batches.append(kept)
        recorder.steps[-1].losses.append(float(loss))
        return loss

    Seq2SeqTrainer.__init__, Seq2SeqTrainer.training_step = init, training_step
    try:
        yield recorder
    finally:
        Seq2SeqTrainer.__init__, Seq2SeqTrainer.training_step = own_init, own_step


def _model(trained: nn.Module) -> nn.Module:
    """A model of the same parameters in float64, from disk, that ms-swift never had in its hands."""
    adapters = getattr(trained, "peft_config", None)
    own = trained.adapters if isinstance(trained, SwiftModel) else None
    inner = trained.base_model if own else trained if adapters is None else trained.get_base_model()
    kinds = (
        LlavaForConditionalGeneration,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2ForCausalLM,
        Qwen3MoeForCausalLM,
    )
    chosen = {each.__name__: each for each in kinds}[type(inner).__name__]
    # The grouped product of experts has no float64.
    options = {"experts_implementation": "eager"} if chosen is Qwen3MoeForCausalLM else {}
    model = chosen.from_pretrained(inner.model_dir, dtype=torch.float64, **options)
    model.config._attn_implementation = "eager"
    if adapters is not None:
        model = get_peft_model(model, adapters["default"], autocast_adapter_dtype=False)
    if own:
        model = Swift.prepare_model(model, {name: each.config for name, each in own.items()})
    return model.double().eval()


def _prompts(step: Step) -> Iterator[list[int]]:
    """The tokens before the first that is trained on, of each record of a step."""
    for batch in step.batches:
        for row, labels in enumerate(batch["labels"]):
            for part in _parts(batch, row):
                valid = (labels[part] != -100).nonzero().flatten()
                yield batch["input_ids"][row, part][: int(valid[0])].tolist()


def _share(
    model: nn.Module, step: Step, weights: dict[str, float], tokenizer: Any, coefficient: float
) -> dict[str, Any]:
    """This rank's sums of Eq. 2 with the numerator's gradient, its routers', and what the step had."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in step.parameters)
        parameter.grad = None
    with torch.no_grad():
        for name, value in step.parameters.items():
            parameters[name].copy_(value)
    numerator = denominator = 0.0
    for batch in step.batches:
        for loss, count, task in _segments(model, batch, weights, tokenizer):
            if count:
                (weights[task] * loss).backward()
                numerator, denominator = (
                    numerator + weights[task] * float(loss),
                    denominator + weights[task] * count,
                )
    names = list(step.parameters)
    gradient = _taken(parameters[name] for name in names)
    router = 0.0
    for batch in step.batches if coefficient else ():
        given = {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}
        auxiliary = model(**given, use_cache=False, output_router_logits=True).aux_loss
        (coefficient * auxiliary / len(step.batches)).backward()
        router += coefficient * float(auxiliary) / len(step.batches)
    return {
        "numerator": numerator,
        "denominator": denominator,
        "gradient": gradient,
        "router": router,
        "router_gradient": _taken(parameters[name] for name in names),
        "losses": step.losses,
        "trained": torch.cat([step.gradients[name].double().flatten() for name in names]),
    }


def _taken(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The gradients in one row, zeros where there is none; afterwards there are none."""
    flat = []
    for each in parameters:
        flat.append(torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten())
        each.grad = None
    return torch.cat(flat)


def _segments(
    model: nn.Module, batch: dict[str, Tensor], weights: dict[str, float], tokenizer: Any
) -> Iterator[tuple[Tensor, int, str]]:
    """The summed loss, the number of targets and the task of each record, one at a time."""
    labels, ids = batch["labels"], batch["input_ids"]
    pictures = iter(_pictures(batch))
    # flash-attn alone keeps the records of Qwen-VL's rows apart; without it each token sees those before it.
    is_mixed = "attention_mask" not in batch and batch["position_ids"].ndim == 3
    for row in range(len(labels)):
        for part in _parts(batch, row):
            own_labels, own_ids = labels[row, part], ids[row, part]
            image = getattr(model.config, "image_token_id", None)
            has_picture = image is not None and bool((own_ids == image).any())
            extra = next(pictures) if has_picture else {}
            if "image_grid_thw" in extra:
                extra = extra | {"mm_token_type_ids": (own_ids == image).int()[None]}
            if is_mixed:
                logits = _logits(model, batch)[part][:-1]
            else:
                logits = model(input_ids=own_ids[None], use_cache=False, **extra).logits[0, :-1]
            targets = own_labels[1:]
            valid = targets != -100
            chosen = logits[valid].log_softmax(-1).gather(1, targets[valid][:, None])
            words = tokenizer.decode(own_ids).split()
            (task,) = {task for task in weights if task in words}
            yield -chosen.sum(), int(valid.sum()), task


def _logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Those of the only row of Qwen-VL's batch, all its records in one."""
    given = {key: value.double() if key == "pixel_values" else value for key, value in batch.items()}
    given.pop("labels")
    logits: Tensor = model(use_cache=False, **given).logits[0]
    return logits


def _pictures(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What a model is given of each picture, in the rows' order."""
    pixels, grids = batch.get("pixel_values"), batch.get("image_grid_thw")
    if pixels is None:
        return []
    if grids is None:
        return [{"pixel_values": each[None].double()} for each in pixels]
    parts = pixels.double().split(grids.prod(-1).tolist())
    return [
        {"pixel_values": part, "image_grid_thw": grid[None]} for part, grid in zip(parts, grids, strict=True)
    ]


def _parts(batch: dict[str, Tensor], row: int) -> list[slice]:
    """Where the records of a row lie: one without its padding, or packed ones, whose positions restart."""
    mask = batch.get("attention_mask")
    if mask is not None:
        where = mask[row].nonzero().flatten()
        return [slice(int(where[0]), int(where[-1]) + 1)]
    positions = batch["position_ids"]
    # Qwen-VL's have those of the text first, then those of the pictures' axes.
    positions = positions[0, row] if positions.ndim == 3 else positions[row]
    starts = [*(positions == 0).nonzero().flatten().tolist(), len(positions)]
    return [slice(a, b) for a, b in pairwise(starts)]
