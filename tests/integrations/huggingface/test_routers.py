"""Routed experts: a step's loss is Eq. 2's and the mean of their auxiliary loss over its micro-batches."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from cotbal.integrations.huggingface import CoTBalTrainer
from cotbal.integrations.huggingface.levels import install_loss
from cotbal.integrations.huggingface.routers import RouterCoefficient, with_routers
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import FROM_5
from tests.integrations.huggingface.routed import CLASSES, COEFFICIENT, by_hand, cut, routed
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    deviation,
    pad,
    parameters,
    records,
)

BOUND = 1e-5
LEVELS = ("linear", "logits")


pytestmark = [
    pytest.mark.skipif(not FROM_5, reason="these classes were run on transformers 5 alone"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
]


@pytest.mark.parametrize(
    ("name", "level", "checkpointing"),
    [
        ("Qwen3Moe", "linear", True),
        ("Qwen3VLMoe", "logits", False),
        *(pytest.param(*each, marks=pytest.mark.full) for each in product(CLASSES, LEVELS, (False, True))),
    ],
)
def test_a_step_has_the_mean_of_the_routers_losses(
    name: str, level: str, checkpointing: bool, tmp_path: Path
) -> None:
    """Three micro-batches, then a window of two."""
    data = records(20)
    trainer = OrderedTrainer(
        routed(name),
        arguments(tmp_path, accumulation=3, steps=2, gradient_checkpointing=checkpointing),
        train_dataset=data,
        data_collator=collator(),
        weights=WEIGHTS,
        level=level,
    )
    assert trainer.installed.level == level
    start = parameters(trainer.model)
    trainer.train()
    reference, losses, routers = by_hand(routed(name), cut(data, 4, 3))
    assert all(part > 0.2 * loss for part, loss in zip(routers, losses, strict=True))
    assert deviation(parameters(trainer.model), reference, start) <= BOUND
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, rel=1e-3)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_routers_loss_that_trains_nothing_is_refused(tmp_path: Path) -> None:
    """Layers whose activations are computed again the older way give router logits without a graph."""
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = CoTBalTrainer(
        routed("Mixtral"),
        arguments(tmp_path, steps=1, **options),
        train_dataset=records(4),
        data_collator=collator(),
        weights=WEIGHTS,
    )
    with pytest.raises(ValueError, match="MixtralForCausalLM: expected its routers' loss to lead to a param"):
        trainer.train()


def test_without_it_a_class_with_experts_is_as_any_other(tmp_path: Path) -> None:
    trainer = CoTBalTrainer(
        routed("Mixtral", adds=False),
        arguments(tmp_path, steps=1),
        train_dataset=records(4),
        data_collator=collator(),
        weights=WEIGHTS,
    )
    assert trainer.installed.level == "linear"
    trainer.train()
    tasks, step = trainer.state.log_history[:2]
    masses = {name: WEIGHTS[name] * tasks[f"task_tokens/{name}"] for name in TASKS}
    mean = sum(mass * tasks[f"task_loss/{name}"] for name, mass in masses.items()) / sum(masses.values())
    assert step["loss"] == pytest.approx(mean, rel=1e-3)


class _Adds(transformers.MixtralForCausalLM):
    """One that adds something else as well."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.loss += 0.5
        return outputs


def test_what_else_a_class_adds_is_refused(tmp_path: Path) -> None:
    model = _Adds(routed("Mixtral").config)
    trainer = CoTBalTrainer(
        model,
        arguments(tmp_path, steps=1),
        train_dataset=records(4),
        data_collator=collator(),
        weights=WEIGHTS,
        level="logits",
    )
    with pytest.raises(
        ValueError, match=r"expected 2.0 times its routers' loss beside ours, no more, got 0\.[45]"
    ):
        trainer.train()


# Dynamo's own, where the experts break the graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("level", ["linear", pytest.param("logits", marks=pytest.mark.full)])
def test_a_compiled_model_trains_the_same(level: str) -> None:
    losses, gradients = [], []
    for compiles in (False, True):
        model, step_loss = routed("Mixtral"), StepLoss(len(TASKS))
        install_loss(model, step_loss, level)
        run = torch.compile(model, backend="aot_eager") if compiles else model
        for share in (0.5, 0.25):
            step_loss.begin_step(torch.ones(2), torch.tensor(10.0), auxiliary_share=share)
            model.zero_grad()
            with step_loss.micro_batch(torch.zeros(2, dtype=torch.int64)):
                loss = run(**pad(records(2))).loss
            loss.backward()
            losses.append(loss.detach())
            gradients.append(torch.cat([each.grad.flatten() for each in model.parameters()]))
        step_loss.begin_step(torch.ones(2), torch.tensor(10.0))
        with (
            pytest.raises(ValueError, match="adds to its loss what the step's denominator does not cover"),
            step_loss.micro_batch(torch.zeros(2, dtype=torch.int64)),
        ):
            run(**pad(records(2)))
    assert losses[0] > losses[1] + 0.5
    torch.testing.assert_close(losses[:2], losses[2:])
    torch.testing.assert_close(gradients[:2], gradients[2:])


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_loop_that_does_not_say_how_many_micro_batches_there_are(share: float | None) -> None:
    model, step_loss = routed("Mixtral"), StepLoss(len(TASKS))
    install_loss(model, step_loss, "logits")
    step_loss.begin_step(torch.ones(2), torch.tensor(10.0), auxiliary_share=share)
    batch = pad(records(2))
    with step_loss.micro_batch(torch.zeros(2, dtype=torch.int64)):
        if share is None:
            with pytest.raises(ValueError, match="MixtralForCausalLM adds to its loss what the step's denom"):
                model(**batch)
            return
        outputs = model(**batch)
    alone = routed("Mixtral")
    labels = batch["labels"][:, 1:]
    rows = nn.functional.cross_entropy(alone(**batch).logits[:, :-1].transpose(1, 2), labels, reduction="sum")
    expected = rows / 10 + share * COEFFICIENT * outputs.aux_loss
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_overflow_is_left_to_the_scaler(value: float) -> None:
    """As where float16's loss is beyond its range: the step is skipped, the training goes on."""
    ours = torch.tensor(value, requires_grad=True)
    auxiliary = torch.tensor(1.5, requires_grad=True)
    coefficient = RouterCoefficient(SimpleNamespace(router_aux_loss_coef=2.0), "router_aux_loss_coef")
    found = with_routers("Mixtral", ours, ours + 2.0 * auxiliary, auxiliary, coefficient, 0.5)
    assert not found.isfinite()
