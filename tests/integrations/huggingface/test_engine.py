"""What is told of a trainer's precision, and torch's own defaults, which are no part of it."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from cotbal.integrations.huggingface.engine import loss_scale, tell_precision
from cotbal.integrations.huggingface.levels import install_loss
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import FROM_5
from tests.integrations.huggingface.training import (
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    records,
    tiny_model,
)


def told(found: str, caplog: pytest.LogCaptureFixture, rank: int = 0, **flags: Any) -> str:
    caplog.clear()
    args = SimpleNamespace(**({"bf16": False, "fp16": False} | flags))
    accelerator = SimpleNamespace(mixed_precision=found)
    tell_precision(
        SimpleNamespace(args=args, accelerator=accelerator, is_world_process_zero=lambda: rank == 0)
    )
    return caplog.text


def test_a_precision_that_was_not_asked_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert "is in bf16, where its arguments ask for neither: ACCELERATE_MIXED_PR" in told("bf16", caplog)
    assert "is in bf16, where its arguments ask for fp16" in told("bf16", caplog, fp16=True)
    assert not told("bf16", caplog, bf16=True)
    assert not told("fp16", caplog, fp16=True)
    assert not told("no", caplog)
    assert not told("bf16", caplog, rank=1)
    # Another engine's, as Apex.
    assert not told("no", caplog, fp16=True)


def test_a_second_training_of_a_process(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In transformers 5 its precision is its own; before, it is that of the first, which is told."""
    for bf16 in (True, False):
        caplog.clear()
        args: TrainingArguments = arguments(tmp_path, steps=1, bf16=bf16)
        trainer = OrderedTrainer(
            tiny_model(), args, train_dataset=records(4), data_collator=collator(), weights=WEIGHTS
        )
        with caplog.at_level(logging.WARNING):
            trainer.train()
    assert trainer.accelerator.mixed_precision == ("no" if FROM_5 else "bf16")
    assert ("the training is in bf16" in caplog.text) == (not FROM_5)


@pytest.fixture
def other_defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    # Stands for "cuda", on which a model may be made.
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)


def test_the_level_is_the_same_whatever_torch_takes_by_default(
    request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    model, args = tiny_model(), arguments(tmp_path)
    request.getfixturevalue("other_defaults")
    assert install_loss(model, StepLoss(2), "auto").level == "linear"
    engine = SimpleNamespace(fp16_enabled=lambda: True, optimizer=SimpleNamespace(loss_scale=1001.0))
    wrapped = SimpleNamespace(scaler=None, deepspeed_engine_wrapped=SimpleNamespace(engine=engine))
    assert loss_scale(SimpleNamespace(args=args, accelerator=wrapped)).item() == 1001.0
