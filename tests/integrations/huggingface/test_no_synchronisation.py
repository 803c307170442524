"""What the trainer does at the start of a step waits for no GPU: its own code on tensors without values.

An operation whose result the host would need raises there. Range checks, which a GPU gets as assertions, are
left out: `tests/test_no_synchronisation.py` is about them.
"""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import cotbal.integrations.huggingface.packing as packing
from cotbal import normalizer
from cotbal.balancing import DWA, TLA, IGBv1, StaticWeights, Weighting
from cotbal.integrations.huggingface.packing import batch_targets
from cotbal.meter import TaskMeter
from cotbal.normalizer import StepNormalizer, loss_factor
from cotbal.step_loss import StepLoss

TASKS = ("a", "b", "c")


def empty(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def batches() -> list[dict[str, Any]]:
    """Padded, packed in two ways, a shard of the sequence."""
    bounds = empty(6, dtype=torch.int32)
    return [
        {"labels": empty(4, 9), "attention_mask": empty(4, 9), "cotbal_task_ids": empty(4)},
        {"labels": empty(1, 40), "position_ids": empty(1, 40), "cotbal_task_ids": empty(5)},
        {"labels": empty(1, 40), "cu_seq_lens_q": bounds, "cotbal_task_ids": empty(5)},
        {"labels": empty(2, 8), "shift_labels": empty(2, 8), "cotbal_task_ids": empty(2, 8)},
    ]


def steps(weighting: Weighting, meter: TaskMeter) -> None:
    weighting.bind(TASKS)
    counter, step_loss = StepNormalizer(3), StepLoss(3)
    previous, weights = None, empty(3, dtype=torch.float32)
    for _ in range(4):
        for batch in batches():
            targets = batch_targets(batch)
            counter.add(targets.labels, targets.task_ids, shift=targets.shift)
        totals = counter.total(previous)
        if totals.previous is not None:
            weighting.update(totals.previous.loss_sum, totals.previous.token_count)
            meter.add(totals.previous, weights)
        weights = weighting.weights(totals.counts)
        denominator = weights.double() @ totals.counts
        step_loss.begin_step(weights, denominator / loss_factor("torch", ranks=2))
        previous = step_loss.take_sums()


@pytest.mark.parametrize("weighting", [StaticWeights(), TLA(), DWA(window=1), IGBv1(1, 3)], ids=type)
def test_the_start_of_a_step(weighting: Weighting, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((normalizer, "require_each"), (packing, "require")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(Weighting, "_checked_weights", lambda _, weights: weights)
    with FakeTensorMode():
        meter = TaskMeter(TASKS)
        steps(weighting, meter)
        # Only reading waits.
        with pytest.raises(DataDependentOutputException):
            meter.read()
