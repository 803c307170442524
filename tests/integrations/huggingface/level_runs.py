"""One micro-batch of a model under a loss that is put in at a level, and how far two such runs are apart."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cotbal.integrations.huggingface.levels import Installed, install_loss
from cotbal.step_loss import StepLoss

# Far apart, and not 1 anywhere: a dropped weight is seen.
WEIGHTS = torch.tensor([0.25, 4.0])
DENOMINATOR = torch.tensor(9.0)
TASK_IDS = torch.tensor([0, 1])


class Run(NamedTuple):
    """What came out of one pass, after its backward pass."""

    loss: Tensor
    logits: Tensor
    gradients: dict[str, Tensor]
    installed: Installed


def run(model: nn.Module, batch: dict[str, Tensor], level: str, task_ids: Tensor = TASK_IDS) -> Run:
    """Forward and backward with the loss at `level`; the model is as before, its gradients apart."""
    step_loss = StepLoss(2)
    installed = install_loss(model, step_loss, level)
    step_loss.begin_step(WEIGHTS, DENOMINATOR)
    model.zero_grad()
    with step_loss.micro_batch(task_ids):
        outputs = model(**batch)
    outputs.loss.backward()
    installed.restore()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Run(outputs.loss.detach(), outputs.logits, gradients, installed)


def weighted(logits: Tensor, labels: Tensor) -> Tensor:
    """The same loss by hand: Eq. 2 with the given denominator, from logits (2, S, V) and labels (2, S)."""
    rows = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none"
    )
    return (rows.view(2, -1).sum(1) * WEIGHTS).sum() / DENOMINATOR


def difference(actual: Run, expected: Run) -> float:
    """The largest error of loss and gradients, each relative to its largest entry.

    A gradient that is 0 but for rounding (a bias of attention's keys, which softmax cancels) must be so in
    both: below a millionth of the model's largest.
    """
    assert actual.gradients.keys() == expected.gradients.keys()
    zero = 1e-6 * max(gradient.abs().max().item() for gradient in expected.gradients.values())
    pairs = [(actual.gradients[name], expected.gradients[name]) for name in expected.gradients]
    return max(_relative(actual.loss, expected.loss, 0.0), *(_relative(a, e, zero) for a, e in pairs))


def _relative(actual: Tensor, expected: Tensor, zero: float) -> float:
    largest = expected.abs().max().item()
    if largest <= zero:
        return 0.0 if actual.abs().max().item() <= zero else float("inf")
    return (actual - expected).abs().max().item() / largest
