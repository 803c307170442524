"""The linear loss on a CPU: cotbal and full logits in plain torch on the same inputs.

    python -m benchmarks.linear_cpu PROVIDER SHARE

prints the memory that one forward and backward adds to the process, in MiB.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal

# The head of LLaVA-1.5 at a quarter of its width: the product decides, and it fits a laptop.
ROWS, VOCABULARY, WIDTH, TASKS = 4096, 32000, 1024, 8
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def cotbal_linear(
    hidden: Tensor, weight: Tensor, labels: Tensor, task_ids: Tensor, task_weights: Tensor
) -> Tensor:
    loss = cotbal.linear_gtw_cross_entropy(hidden, weight, labels, task_ids, task_weights)
    assert isinstance(loss, Tensor)
    return loss


def torch_full_logits(
    hidden: Tensor, weight: Tensor, labels: Tensor, task_ids: Tensor, task_weights: Tensor
) -> Tensor:
    weights = task_weights[task_ids] * (labels != -100)
    losses = F.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    return (losses * weights).sum() / weights.sum()


PROVIDERS: dict[str, Callable[..., Tensor]] = {"cotbal": cotbal_linear, "torch": torch_full_logits}


def make_inputs(share: float) -> Inputs:
    """Hidden states, head, labels of which `share` are valid, task ids and weights; seeded."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, WIDTH, generator=generator) / WIDTH**0.5).requires_grad_()
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[torch.rand(ROWS, generator=generator) >= share] = -100
    task_ids = torch.randint(TASKS, (ROWS,), generator=generator)
    return hidden, weight, labels, task_ids, 0.25 + torch.rand(TASKS, generator=generator)


def step(provider: str, inputs: Inputs) -> tuple[Tensor, ...]:
    """Loss and the gradients of hidden states and head."""
    loss = PROVIDERS[provider](*inputs)
    return loss.detach(), *torch.autograd.grad(loss, inputs[:2])


def added_mib(provider: str, share: float) -> float:
    """Growth of this process's peak memory by one step; ask in a process of its own."""
    inputs = make_inputs(share)
    before = _peak_kib()
    step(provider, inputs)
    return (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    # Not getrusage: there a child begins with the peak of the process that started it. Linux only.
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


if __name__ == "__main__":
    print(f"{added_mib(sys.argv[1], float(sys.argv[2])):.0f}")
