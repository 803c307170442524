"""Bytes that a loss moves: what its kernels load and store, and what torch's operations read and write.

Kernels run in Triton's interpreter, where every load and store passes through two methods; they are counted
by the tensor that they point into. The interpreter does not see torch's operations; a TorchDispatchMode adds
those up. An operation counts as one read of each large tensor that it is given and one write of each that it
makes, the least that it can do, whatever it does inside.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

from benchmarks.inputs import Case, make_inputs
from benchmarks.provider import Provider
from benchmarks.step import step

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "addmv", "mv", "dot"}
# Make tensors without touching memory, or only say something about one.
_FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "set_",
    "resize_",
    "detach",
    "alias",
    "lift_fresh",
    "is_same_size",
    "_local_scalar_dense",
    "_reshape_alias",
    "_version",
}
# Write without reading; the backward pass of the negative log-likelihood takes the logits' shape alone.
_FILLS = {
    "fill_",
    "zero_",
    "zeros",
    "zeros_like",
    "ones",
    "ones_like",
    "full",
    "full_like",
    "new_zeros",
    "new_full",
    "new_ones",
    "nll_loss_backward",
}
# Read as much as they give, not all that they are given.
_GATHERS = {"gather", "index", "index_select", "embedding", "take", "nll_loss_forward"}
# Write as much as they are given, not all of the tensor that they write into.
_SCATTERS = {"scatter_", "scatter_add_", "index_put_", "_index_put_impl_", "index_add_", "index_copy_"}


@dataclass
class Traffic:
    """Bytes read and written.

    Attributes:
        logits: of tensors as large as a part of the logits: [read, written].
        other: of hidden states, head and their gradients (linear level).
        products: of the matrix products, logits included.
        by_operation: bytes by name of kernel or operation, of the first kind alone.
    """

    logits: list[int] = field(default_factory=lambda: [0, 0])
    other: list[int] = field(default_factory=lambda: [0, 0])
    products: list[int] = field(default_factory=lambda: [0, 0])
    by_operation: Counter[str] = field(default_factory=Counter)


class _Counter(TorchDispatchMode):
    """Adds torch's operations to a Traffic; the kernels add themselves through `kernels_counted`."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.traffic = case, Traffic()
        self.in_kernel: str | None = None
        self._spans: list[tuple[int, int, bool]] = []

    def is_logits(self, tensor: Tensor) -> bool:
        """Whether a tensor is a chunk of logits: at least 8 rows of V, and not of width D.

        The table's rule is N V / 8 elements; this one is stricter, so that small chunks do not hide.
        """
        large = _touched(tensor) >= min(8, self.case.rows) * self.case.vocabulary
        return large and not (self.case.width and self.case.width in tensor.shape)

    def is_other(self, tensor: Tensor) -> bool:
        return bool(self.case.width) and self.case.width in tensor.shape and tensor.ndim > 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace not in ("aten", "prims", "prim"):
            # A custom operator is made of others: look inside.
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        result = func(*args, **kwargs)
        if self.in_kernel is None:
            self._add_operation(func, args, kwargs, result)
        return result

    def _add_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        name = func._schema.name.split("::")[1]
        if func.is_view or name in _FREE:
            return
        mutated = {
            argument.name
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        }
        named = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        written = [value for key, value in named.items() if key in mutated and isinstance(value, Tensor)]
        overwrites = name in _FILLS or name == "copy_" or name.endswith("_out") or "out" in mutated
        read = [
            tensor
            for key, value in named.items()
            for tensor in tree_leaves(value)
            if isinstance(tensor, Tensor) and not (key in mutated and overwrites)
        ]
        made = [] if written else [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        amount = None
        if name in _GATHERS:
            amount = sum(_touched(tensor) for tensor in made)
        elif name in _SCATTERS:
            amount = _scattered(named)
        product = name in PRODUCTS
        for tensor in [] if name in _FILLS else read:
            self._add(tensor, 0, name, amount if tensor is read[0] else None, product)
        for tensor in (*written, *made):
            self._add(tensor, 1, name, amount if name in _SCATTERS else None, product)

    def _add(self, tensor: Tensor, place: int, name: str, amount: int | None, product: bool) -> None:
        count = _touched(tensor) if amount is None else amount
        n_bytes = count * tensor.element_size()
        if product:
            self.traffic.products[place] += n_bytes
        elif self.is_other(tensor):
            self.traffic.other[place] += n_bytes
        elif self.is_logits(tensor) and count >= min(8, self.case.rows) * self.case.vocabulary:
            self.traffic.logits[place] += n_bytes
            self.traffic.by_operation[name] += n_bytes

    def enter_kernel(self, name: str, arguments: Iterable[Any]) -> None:
        """Remembers which addresses are logits, so that each access can be told apart."""
        self.in_kernel = name
        tensors = [value for value in tree_leaves(list(arguments)) if isinstance(value, Tensor)]
        self._spans = [
            (
                t.untyped_storage().data_ptr(),
                t.untyped_storage().data_ptr() + t.untyped_storage().nbytes(),
                self.is_other(t),
            )
            for t in tensors
        ]

    def add_access(self, pointers: Any, mask: Any, itemsize: int, place: int) -> None:
        """Counts one load or store of the running kernel."""
        count = int(mask.sum())
        if not count:
            return
        address = int(pointers[mask].flat[0])
        is_other = any(other for start, stop, other in self._spans if start <= address < stop)
        (self.traffic.other if is_other else self.traffic.logits)[place] += count * itemsize
        if not is_other:
            self.traffic.by_operation[str(self.in_kernel)] += count * itemsize


@contextmanager
def _kernels_counted(counter: _Counter) -> Iterator[None]:
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, launch = builder.create_masked_load, builder.create_masked_store, executor.__call__

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        loaded = load(self, ptrs, mask, *rest)
        counter.add_access(ptrs.data, mask.data, loaded.data.itemsize, 0)
        return loaded

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        counter.add_access(ptrs.data, mask.data, value.data.itemsize, 1)
        return store(self, ptrs, value, mask, *rest)

    def counted_launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The interpreter's own handling of the arguments is not the loss's.
        counter.enter_kernel(self.fn.__name__, (*args, *kwargs.values()))
        try:
            return launch(self, *args, **kwargs)
        finally:
            counter.in_kernel = None

    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    executor.__call__ = counted_launch
    try:
        yield
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        executor.__call__ = launch


def count(provider: Provider, case: Case) -> Traffic:
    """Bytes moved by one step, loss and gradient, of `provider` on the CPU."""
    inputs = make_inputs(case)
    # What happens once a process (a library's own set-up) happens here.
    step(provider, make_inputs(case))
    counter = _Counter(case)
    with _kernels_counted(counter), counter:
        step(provider, inputs)
    return counter.traffic


def per_logit(n_bytes: int, case: Case) -> float:
    """In passes over all logits: bytes / (N V itemsize)."""
    return n_bytes / (case.rows * case.vocabulary * case.torch_dtype.itemsize)


def _touched(tensor: Tensor) -> int:
    """Elements in memory: a dimension of stride 0 is one."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sizes) if tensor.numel() else 0


def _scattered(named: dict[str, Any]) -> int:
    index = named.get("index", named.get("indices"))
    source = next(
        (named[key] for key in ("src", "source", "values") if isinstance(named.get(key), Tensor)), None
    )
    if source is not None and source.numel() > 1:
        return int(source.numel())
    return sum(int(leaf.numel()) for leaf in tree_leaves(index) if isinstance(leaf, Tensor))
