"""What is told of a trainer's precision."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from cotbal.integrations.huggingface.engine import tell_precision
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
