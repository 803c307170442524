"""Random inputs of the loss, large enough that dropping any term of it shows."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

IGNORE = -100
# float64 is not a dtype of the kernel.
IMPL_DTYPES = [
    ("torch", torch.float64),
    ("torch", torch.float32),
    ("torch", torch.bfloat16),
    ("torch", torch.float16),
    ("triton", torch.float32),
    ("triton", torch.bfloat16),
    # In the interpreter it takes as long as bfloat16, from which the kernel does not tell it apart.
    pytest.param("triton", torch.float16, marks=pytest.mark.full),
]
# For a law that compares an implementation with itself: how its rows are rounded is nothing to it.
_ONE_OF_THE_KERNEL = [
    *IMPL_DTYPES[:4],
    pytest.param("triton", torch.float32, marks=pytest.mark.full),
    *IMPL_DTYPES[5:],
]


def _everywhere(impl_dtypes: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("impl", "dtype"), impl_dtypes, ids=lambda value: str(value).split(".")[-1]
    )


everywhere = _everywhere(IMPL_DTYPES)
of_itself = _everywhere(_ONE_OF_THE_KERNEL)


@dataclass(frozen=True)
class Case:
    """Logits (B, S, V), labels, task ids per token, weights; at least two rows weigh something."""

    logits: Tensor
    labels: Tensor
    task_ids: Tensor
    task_weights: Tensor
    token_weights: Tensor | None

    @property
    def n_tasks(self) -> int:
        return self.task_weights.numel()

    @property
    def weights(self) -> Tensor:
        """w_r in float64, written out once more: (B, S)."""
        weights = self.task_weights.double()[self.task_ids] * (self.labels != IGNORE)
        return weights if self.token_weights is None else weights * self.token_weights.double()

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.logits, self.labels, self.task_ids, self.task_weights

    def replace(self, **changes: Tensor | None) -> "Case":
        return replace(self, **changes)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float32, *, token_weights: bool = True) -> Case:
    """Small odd shapes: V below, at, above a block, not a power of two; tasks absent or of weight 0."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, length = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    n_cols = draw(st.sampled_from([2, 7, 32, 33, 64, 65, 100, 131]))
    n_tasks = draw(st.integers(1, 4))
    spread = draw(st.sampled_from([0.5, 3.0, 12.0]))
    logits = (torch.randn(batch, length, n_cols, generator=generator) * spread).to(dtype)
    labels = torch.randint(n_cols, (batch, length), generator=generator)
    ignored = torch.rand(batch, length, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.7]))
    labels[ignored] = IGNORE
    task_ids = torch.randint(draw(st.integers(1, n_tasks)), (batch, length), generator=generator)
    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    task_weights = (0.25 + 3.75 * torch.rand(n_tasks, generator=generator)).to(weight_dtype)
    if n_tasks > 1 and draw(st.booleans()):
        task_weights[n_tasks - 1] = 0.0
    # Two rows that count, of different positions, so that the denominator is never trivial.
    labels[0, 0], labels[-1, -1] = 0, n_cols - 1
    task_ids[0, 0] = task_ids[-1, -1] = 0
    tokens = None
    if token_weights and draw(st.booleans()):
        tokens = (0.5 + torch.rand(batch, length, generator=generator)).to(weight_dtype)
    return Case(logits, labels, task_ids, task_weights, tokens)
