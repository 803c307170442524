"""A trainer of one's own that looks at the outputs of a training batch."""

from pathlib import Path
from typing import Any

import torch

from tests.integrations.huggingface.training import (
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    parameters,
    records,
    tiny_model,
)


class Looks(OrderedTrainer):
    """Takes the outputs, and trains on the loss beside them."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        self.pairs = [*getattr(self, "pairs", []), (loss.item(), outputs.loss.item())]
        return loss


def test_outputs_come_with_the_loss_of_the_step(tmp_path: Path) -> None:
    runs = [
        cls(
            tiny_model(),
            arguments(tmp_path, 4, 2, steps=2),
            train_dataset=records(16),
            data_collator=collator(),
            weights=WEIGHTS,
        )
        for cls in (Looks, OrderedTrainer)
    ]
    for run in runs:
        run.train()
    assert torch.equal(*(parameters(run.model) for run in runs))
    assert runs[0].pairs == [(loss.item(),) * 2 for loss in runs[1].losses]
