"""Nothing waits for a GPU: the operators' own code on fake CUDA tensors, forward and backward.

An operation whose result the host would need raises there, as does a copy between devices. The kernels are
stand-ins that look at what they are given: their launches are counted, what they compute is tested elsewhere.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

pytest.importorskip("triton")

import cotbal
from cotbal import losses, ops
from csrc_triton import gather_rows, gtw_cross_entropy, logits_chunks, products, row_sums
from tests.csrc_triton.tally import Tally

ROWS, VOCABULARY, WIDTH, TASKS = 4096, 32003, 512, 5
KERNELS = {
    gtw_cross_entropy: ("_gtw_cross_entropy_fwd_kernel", "_scale_rows_kernel"),
    row_sums: ("_weigh_rows_kernel", "_sum_rows_kernel"),
    gather_rows: ("_gather_rows_kernel",),
}


class Kernel:
    """`kernel[grid](...)`."""

    def __init__(self, name: str, launches: list[str]) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(isinstance(size, int) for size in grid)

        def launch(*arguments: Any, **_: Any) -> None:
            tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
            assert tensors
            assert all(tensor.is_cuda for tensor in tensors), self.name
            self.launches.append(self.name)

        return launch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Kernels launched, in order, while the operators run their own code."""
    launched: list[str] = []
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Kernel(name, launched))
    for module in (products, logits_chunks):
        monkeypatch.setattr(module, "adds_wide_products", lambda device: True)
    monkeypatch.setattr(ops, "scale_op", ops.scale_op._init_fn)
    # Autograd itself needs a real GPU: its two calls are made by hand.
    monkeypatch.setattr(
        losses, "needs_gradients", lambda *features: tuple(feature is not None for feature in features)
    )
    with FakeTensorMode():
        yield launched


class Context(SimpleNamespace):
    """What autograd would hand from one pass to the other."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


def run_through(op: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> Context:
    """Makes the public function call the body of `op`; its context, once it was called."""
    context = Context()

    def body(*inputs: Any) -> Any:
        output = op._init_fn(*inputs)
        op._setup_context_fn(context, inputs, output)
        context.needs_input_grad = [isinstance(each, Tensor) and each.ndim == 2 for each in inputs]
        return output

    monkeypatch.setattr(losses, name, body)
    return context


def rows() -> dict[str, Any]:
    cuda = {"device": "cuda"}
    return {
        "labels": torch.empty(ROWS, dtype=torch.int64, **cuda),
        "task_ids": torch.empty(ROWS, dtype=torch.int64, **cuda),
        "task_weights": torch.empty(TASKS, **cuda),
        "token_weights": torch.empty(ROWS, **cuda),
        "class_weights": torch.empty(VOCABULARY, **cuda),
        "denominator": torch.empty((), **cuda),
        "label_smoothing": 0.1,
        "z_loss": 1e-4,
        "return_stats": True,
        "impl": "triton",
    }


def on_gpu(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda")


@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
def test_the_loss_on_logits(reduction: str, launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    context = run_through(losses.gtw_cross_entropy_op, monkeypatch, "gtw_cross_entropy_op")
    arguments = rows() | {"reduction": reduction}
    if reduction != "weighted_mean":
        del arguments["denominator"]
    logits = on_gpu(ROWS, VOCABULARY)
    with Tally(large=1) as tally:
        loss, _ = cotbal.gtw_cross_entropy(logits, **arguments)
        with torch.no_grad():
            gradient, *_ = ops._backward(context, torch.empty_like(loss))
    assert launches == [
        *KERNELS[row_sums][:1],
        KERNELS[gtw_cross_entropy][0],
        "_sum_rows_kernel",
        "_scale_rows_kernel",
    ]
    assert gradient.shape == logits.shape
    assert tally.devices == {"cuda"}
    assert "aten._assert_async.msg" in tally.names


@pytest.mark.parametrize("reduction", ["weighted_mean", "none"])
def test_the_linear_loss(reduction: str, launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    op = losses.linear_gtw_cross_entropy_op
    context = run_through(op, monkeypatch, "linear_gtw_cross_entropy_op")
    monkeypatch.setattr("cotbal.linear_ops.linear_gtw_cross_entropy_op", op._init_fn)
    arguments = rows() | {"reduction": reduction, "valid_count": ROWS // 5, "bias": on_gpu(VOCABULARY)}
    if reduction == "none":
        del arguments["denominator"]
    hidden, weight = on_gpu(ROWS, WIDTH), on_gpu(VOCABULARY, WIDTH)
    with Tally(large=1) as tally:
        loss, _ = cotbal.linear_gtw_cross_entropy(hidden, weight, **arguments)
        with torch.no_grad():
            gradients = op._backward_fn(context, torch.empty_like(loss))
    assert gradients[0].shape == hidden.shape
    assert gradients[1].shape == weight.shape
    assert gradients[2].shape == (VOCABULARY,)
    assert {"_weigh_rows_kernel", "_gather_rows_kernel", "_sum_rows_kernel"} < set(launches)
    assert tally.devices == {"cuda"}


def test_a_wait_would_be_seen(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the count of valid rows, which only the GPU knows."""
    run_through(losses.linear_gtw_cross_entropy_op, monkeypatch, "linear_gtw_cross_entropy_op")
    with pytest.raises(DataDependentOutputException):
        cotbal.linear_gtw_cross_entropy(on_gpu(ROWS, WIDTH), on_gpu(VOCABULARY, WIDTH), **rows())
