"""The CPU path of the linear loss against full logits in plain torch, forward and backward, in one run.

Absolute times of a CPU say little; read the ratio of the two rows of a group. FLOPs: 6 Nv V D for cotbal and
6 N V D for full logits (one product forward, two backward), Nv valid rows of N.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal

# The head of LLaVA-1.5 at a quarter of its width: the product decides, and it fits a laptop.
ROWS, VOCABULARY, WIDTH, TASKS = 4096, 32000, 1024, 8


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


PROVIDERS = {"cotbal": cotbal_linear, "torch, full logits": torch_full_logits}


@pytest.fixture(scope="module", params=[0.2, 1.0], ids=["20 % valid", "100 % valid"])
def inputs(request: pytest.FixtureRequest) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(VOCABULARY, WIDTH, generator=generator) / WIDTH**0.5).requires_grad_()
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[torch.rand(ROWS, generator=generator) >= request.param] = -100
    task_ids = torch.randint(TASKS, (ROWS,), generator=generator)
    return hidden, weight, labels, task_ids, 0.25 + torch.rand(TASKS, generator=generator)


def step(fn: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    loss = fn(*inputs)
    return loss.detach(), *torch.autograd.grad(loss, inputs[:2])


@pytest.fixture(scope="module")
def expected(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return step(torch_full_logits, inputs)


@pytest.mark.parametrize("name", PROVIDERS)
def test_linear_loss(
    name: str, inputs: tuple[Tensor, ...], expected: tuple[Tensor, ...], benchmark: Callable
) -> None:
    # No time without the right result; two float32 summation orders differ by a few units in the last place.
    for got, want in zip(step(PROVIDERS[name], inputs), expected, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    valid = int((inputs[2] != -100).sum())
    benchmark.group = f"linear loss, {valid} of {ROWS} rows valid, V={VOCABULARY}, D={WIDTH}, float32"
    benchmark.extra_info.update(
        torch=torch.__version__, threads=torch.get_num_threads(), flops=6 * valid * VOCABULARY * WIDTH
    )
    # The correctness check was the warm-up.
    benchmark.pedantic(step, args=(PROVIDERS[name], inputs), rounds=3, warmup_rounds=0)
