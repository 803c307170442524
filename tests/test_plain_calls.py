"""Calls that autograd alone follows leave torch's operator out; whoever else looks on finds the operator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import cotbal

LABELS, IDS, WEIGHTS = torch.tensor([3, -100, 7, 0]), torch.tensor([0, 1, 1, 0]), torch.tensor([0.5, 2.0])


def on_logits(features: Tensor) -> Tensor:
    return cotbal.gtw_cross_entropy(features, LABELS, IDS, WEIGHTS)  # type: ignore[no-any-return]


def on_hidden(features: Tensor) -> Tensor:
    head = torch.linspace(-1, 1, 11 * features.shape[1]).view(11, -1)
    return cotbal.linear_gtw_cross_entropy(features, head, LABELS, IDS, WEIGHTS)  # type: ignore[no-any-return]


LEVELS = pytest.mark.parametrize(
    ("loss", "width", "name"),
    [(on_logits, 11, "gtw_cross_entropy"), (on_hidden, 5, "linear_gtw_cross_entropy")],
    ids=["logits", "linear"],
)


class Seen(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **kwargs or {})


@LEVELS
def test_a_plain_call_is_no_operator(loss: Callable[[Tensor], Tensor], width: int, name: str) -> None:
    """Torch's way to one takes the host more time: `benchmarks.host_time`."""
    features = torch.randn(4, width, requires_grad=True)
    assert type(loss(features).grad_fn).__name__.lower() == f"{name.replace('_', '')}backward"
    with torch.no_grad():
        assert not loss(features).requires_grad


@LEVELS
def test_a_mode_sees_the_operators(loss: Callable[[Tensor], Tensor], width: int, name: str) -> None:
    """What counts bytes, keeps activations or holds no values knows them by their names."""
    features = torch.randn(4, width, requires_grad=True)
    with Seen() as seen:
        (loss(features) * 0.5).backward()
    assert f"cotbal.{name}.default" in seen.names
    assert "cotbal.scale_.default" in seen.names


@LEVELS
def test_both_ways_are_one(loss: Callable[[Tensor], Tensor], width: int, name: str) -> None:
    features = torch.randn(4, width, requires_grad=True)
    plain = loss(features)
    with Seen():
        operator = loss(features)
    assert type(operator.grad_fn) is not type(plain.grad_fn)
    one, two = (torch.autograd.grad(each * 3, features)[0] for each in (plain, operator))
    assert torch.equal(plain, operator)
    assert torch.equal(one, two)


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_get_current_graph_task_keep_graph"),
    reason="this torch does not tell whether the graph is kept: a copy is scaled",
)
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_scaling_is_seen_by_what_saved_the_logits_after_an_inplace_loss(impl: str) -> None:
    if impl == "triton":
        pytest.importorskip("triton")
    logits = torch.randn(4, 11, requires_grad=True) * 1
    loss = cotbal.gtw_cross_entropy(logits, LABELS, IDS, WEIGHTS, inplace=True, impl=impl)
    factor = torch.ones((), requires_grad=True)
    later = (logits.detach() * factor).sum()
    (loss * 0.5).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.backward()
