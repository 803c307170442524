"""What the checks of a real GPU compute with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Check = tuple[str, Callable[[], None]]
TASKS = 3
PLAIN: dict[str, Any] = {}


def inputs(device: str, *, rows: int, n_cols: int) -> dict[str, Tensor]:
    """Labels from end to end of the vocabulary, a third of them ignored, and tasks; the same each time."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(n_cols, (rows,), generator=generator)
    labels[1], labels[2], labels[::3] = 0, n_cols - 1, -100
    return {
        "labels": labels.to(device),
        "task_ids": torch.randint(TASKS, (rows,), generator=generator).to(device),
        "task_weights": torch.tensor([0.5, 0.0, 2.0], device=device),
    }


def every_option(device: str, n_cols: int, rows: int) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(2)
    return {
        "token_weights": torch.rand(rows, generator=generator, device=device),
        "class_weights": torch.rand(n_cols, generator=generator, device=device),
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "softcap": 20.0,
    }


def normal(*shape: int, device: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(1)
    return torch.randn(shape, generator=generator, device=device).to(dtype)
