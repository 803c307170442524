"""What a call costs, operation by operation: products, other passes over large tensors, memory alive."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
# Products into an output that is there, and where their factors stand.
FACTORS = {aten.mm.out: slice(0, 2), aten.addmm.out: slice(1, 3)}
if hasattr(aten.addmm, "dtype_out"):
    FACTORS[aten.addmm.dtype_out] = slice(1, 3)
# An entry or a row for each row of logits: no pass over them.
SPARSE = {
    aten.gather.default,
    aten.scatter_.src,
    aten.index_add_.default,
    aten.index_put_.default,
    aten.index_select.default,
}
EMPTY = {aten.empty.memory_format, aten.new_empty.default}


class Tally(TorchDispatchMode):
    """Counts while it is entered. Fake CUDA tensors are not multiplied: a build without CUDA cannot.

    Attributes:
        flops: 2 m k n of every product.
        passes: every other operation on a tensor of `large` elements or more, with that number.
        names: every operation.
        devices: where its tensors were; a copy between two of them waits.
        peak: the most bytes alive at once, of storages made inside.
    """

    def __init__(self, large: int) -> None:
        super().__init__()
        self.large, self.flops, self.peak = large, 0, 0
        self.passes: list[tuple[str, int]] = []
        self.names: list[str] = []
        self.devices: set[str] = set()
        self.live = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.names.append(str(func))
        self.devices |= {tensor.device.type for tensor in tensors_in((args, kwargs))}
        if func in FACTORS:
            a, b = args[FACTORS[func]]
            self.flops += 2 * a.numel() * b.shape[1]
            return kwargs["out"] if a.is_cuda else func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func.namespace == "aten" and not func.is_view and func not in EMPTY | SPARSE:
            largest = max((tensor.numel() for tensor in tensors_in((args, kwargs, result))), default=0)
            if largest >= self.large:
                self.passes.append((str(func), largest))
        self.watch(result, {tensor.untyped_storage() for tensor in tensors_in((args, kwargs))})
        return result

    def watch(self, result: Any, known: set[torch.UntypedStorage]) -> None:
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            if storage not in known:
                self.live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
