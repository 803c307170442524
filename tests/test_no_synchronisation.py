"""Nothing waits for a GPU: the operators' own code on fake CUDA tensors, forward and backward.

An operation whose result the host would need raises there, as does a copy between devices. The kernels are
stand-ins that look at what they are given: their launches are counted, what they compute is tested elsewhere.
The tensors are on the second GPU while the first is the current one, as in a model that is spread over two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

pytest.importorskip("triton")

import cotbal
from cotbal import losses, ops
from csrc_triton import (
    compact_kernels,
    gather_rows,
    gtw_cross_entropy,
    launch,
    logits_chunks,
    products,
    row_sums,
    vocab_parallel,
)
from csrc_triton.options import LossOptions
from csrc_triton.vocab_pieces import N_STATISTICS, Piece
from tests.csrc_triton.tally import Tally
from tests.csrc_triton.test_compile import kernels_of_the_package

ROWS, VOCABULARY, WIDTH, TASKS = 4096, 32003, 512, 5
KERNELS = {
    gtw_cross_entropy: ("_gtw_cross_entropy_fwd_kernel", "_scale_rows_kernel"),
    row_sums: ("_weigh_rows_kernel", "_sum_rows_kernel"),
    compact_kernels: ("_compact_rows_kernel", "_put_rows_kernel"),
    gather_rows: ("_gather_rows_kernel",),
    vocab_parallel: ("piece_statistics_fwd_kernel", "piece_losses_fwd_kernel"),
}

SMALL = {"arange", "cat", "clamp", "cumsum", "index_select", "masked_fill_", "searchsorted", "where"}

CURRENT, OWN = 0, 1


class Gpus:
    """Which GPU is the current one, and on which a graph is captured; `torch.cuda` would ask real ones."""

    def __init__(self) -> None:
        self.current, self.capturing = CURRENT, -1

    @contextmanager
    def device_of(self, tensor: Tensor) -> Iterator[None]:
        before, self.current = self.current, tensor.get_device()
        yield
        self.current = before

    def is_current_stream_capturing(self) -> bool:
        return self.current == self.capturing


class Kernel:
    """`kernel[grid](...)`."""

    def __init__(self, name: str, launches: list[str], gpus: Gpus) -> None:
        self.name, self.launches, self.gpus = name, launches, gpus

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(isinstance(size, int) for size in grid)

        def launch(*arguments: Any, **_: Any) -> None:
            tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
            assert tensors
            assert all(tensor.is_cuda for tensor in tensors), self.name
            # A kernel starts on the current GPU, whichever its tensors are on.
            assert {tensor.get_device() for tensor in tensors} == {self.gpus.current}, self.name
            self.launches.append(self.name)

        return launch


@pytest.fixture
def gpus() -> Gpus:
    return Gpus()


@pytest.fixture
def launches(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Kernels launched, in order, while the operators run their own code."""
    launched: list[str] = []
    for name in ("device_of", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, getattr(gpus, name))
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Kernel(name, launched, gpus))
    for module in (products, logits_chunks):
        monkeypatch.setattr(module, "adds_wide_products", lambda device: True)
    monkeypatch.setattr(launch, "_is_hopper", lambda device: True)
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
        context.needs_input_grad = [isinstance(each, Tensor) and each.ndim == 2 for each in inputs]
        op._setup_context_fn(context, inputs, output)
        return output

    monkeypatch.setattr(losses, name, body)
    return context


def rows() -> dict[str, Any]:
    cuda = {"device": f"cuda:{OWN}"}
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
    return torch.empty(shape, dtype=torch.bfloat16, device=f"cuda:{OWN}")


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
    # Of the kernel's flag: it has looked at every value and every product of weights.
    assert tally.names.count("aten._assert_async.msg") == 1
    used = (SMALL | {"gather", "minimum"}) & {name.split(".")[1] for name in tally.names}
    assert used <= ({"gather", "where"} if reduction == "none" else set())


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
    around = [*KERNELS[compact_kernels][:1], "_gather_rows_kernel", *KERNELS[gtw_cross_entropy][:1]]
    # The gradient in the states is scattered at once, or by the backward pass.
    around += ["_gather_rows_kernel"] * (reduction != "none") + ["_put_rows_kernel", "_sum_rows_kernel"]
    assert launches[: len(around) + 1] == ["_weigh_rows_kernel", *around]
    # What the kernels over rows are there for: many small operations take longer than the products.
    used = SMALL & {name.split(".")[1] for name in tally.names}
    assert used <= ({"where"} if reduction == "none" else set())
    assert tally.devices == {"cuda"}


def test_a_piece_of_the_vocabulary(launches: list[str]) -> None:
    logits, piece = on_gpu(ROWS, VOCABULARY), Piece(VOCABULARY, VOCABULARY, 2 * VOCABULARY)
    labels, row_values = torch.empty(ROWS, dtype=torch.int64, device=logits.device), on_gpu(ROWS).float()
    options = LossOptions(class_weights=on_gpu(2 * VOCABULARY).float())
    with Tally(large=1) as tally:
        vocab_parallel.piece_statistics(
            logits, labels, row_values, row_values, piece, options, want_correct=True, ignore_index=-100
        )
        vocab_parallel.piece_losses(
            logits,
            labels,
            on_gpu(N_STATISTICS, ROWS).float(),
            row_values,
            on_gpu().float(),
            piece,
            options,
            gradient=logits,
            want_correct=True,
            ignore_index=-100,
        )
    assert launches == [*KERNELS[vocab_parallel]]
    assert tally.devices == {"cuda"}


def test_every_kernel_is_among_them() -> None:
    """Each is launched by a test of this file: none may start on another GPU than its tensors'."""
    assert {name for names in KERNELS.values() for name in names} == kernels_of_the_package()


def test_a_wait_would_be_seen(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the count of valid rows, which only the GPU knows."""
    run_through(losses.linear_gtw_cross_entropy_op, monkeypatch, "linear_gtw_cross_entropy_op")
    with pytest.raises(DataDependentOutputException):
        cotbal.linear_gtw_cross_entropy(on_gpu(ROWS, WIDTH), on_gpu(VOCABULARY, WIDTH), **rows())


@pytest.mark.parametrize("capturing", [CURRENT, OWN])
def test_a_cuda_graph_takes_every_row(
    capturing: int, gpus: Gpus, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled model has no count to give: a wait would end the capture, and with it the training."""
    run_through(losses.linear_gtw_cross_entropy_op, monkeypatch, "linear_gtw_cross_entropy_op")
    gpus.capturing = capturing
    with Tally(large=1):
        cotbal.linear_gtw_cross_entropy(on_gpu(ROWS, WIDTH), on_gpu(VOCABULARY, WIDTH), **rows())
    assert launches.count("_compact_rows_kernel") == 1
    # Each row stands in its own place.
    assert "_put_rows_kernel" not in launches
