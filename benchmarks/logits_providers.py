"""Losses on logits (R, V): loss and gradient of the logits."""

import importlib
import importlib.util
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal
from benchmarks.inputs import IGNORE, LossInputs
from benchmarks.provider import Build, Loss, Provider, RowLosses, compacted, compiled, from_rows

FLASH_ATTN_FILE = "FLASH_ATTN_CROSS_ENTROPY"


def torch_rows(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def upcast_rows(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


def quack_rows() -> RowLosses:
    """QuACK's loss of each row, its gradient written over the logits."""
    cross_entropy = importlib.import_module("quack.cross_entropy").cross_entropy
    return partial(cross_entropy, reduction="none", inplace_backward=True)


def _ours(*, inplace: bool, impl: str = "auto") -> Loss:
    def run(inputs: LossInputs) -> Tensor:
        loss = cotbal.gtw_cross_entropy(
            inputs.features[0],
            inputs.labels,
            inputs.task_ids,
            inputs.task_weights,
            denominator=inputs.denominator,
            inplace=inplace,
            impl=impl,
        )
        assert isinstance(loss, Tensor)
        return loss

    return run


def ours(name: str, *, inplace: bool, impl: str = "auto") -> Provider:
    """cotbal's loss; `impl` picks a path of it where a comparison needs one."""
    where = "the gradient written over the logits" if inplace else "the logits left as they are"
    return Provider(name, "logits", _ours(inplace=inplace, impl=impl), f"one launch, {where}", ours=True)


def _torch() -> Provider:
    return Provider("torch", "logits", from_rows(torch_rows), "eager, on the logits' own dtype: fewest bytes")


def _torch_upcast() -> Provider:
    return Provider(
        "torch fp32", "logits", from_rows(upcast_rows), "eager, logits.float() first, as transformers does"
    )


def _torch_compiled() -> Provider:
    return Provider(
        "torch compiled",
        "logits",
        compiled(from_rows(upcast_rows)),
        "torch.compile with static shapes; the upcast is fused, so it costs no pass",
        slow_start=True,
    )


def _liger() -> Provider:
    function = importlib.import_module("liger_kernel.ops.cross_entropy").LigerCrossEntropyFunction

    def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
        return function.apply(logits, labels, None, IGNORE, 0.0, 0.0, "none")[0]

    return Provider(
        "Liger",
        "logits",
        from_rows(row_losses),
        'reduction="none"; it writes the gradient over the logits',
        needs="triton",
    )


def _liger_unweighted() -> Provider:
    function = importlib.import_module("liger_kernel.ops.cross_entropy").LigerCrossEntropyFunction

    def run(inputs: LossInputs) -> Tensor:
        return function.apply(inputs.features[0], inputs.labels, None, IGNORE, 0.0, 0.0, "mean")[0].float()

    configured = 'reduction="mean": no pass for the weights, and no weights'
    return Provider("Liger unweighted", "logits", run, configured, weighted=False, needs="triton")


def _fla() -> Provider:
    cross_entropy = importlib.import_module("fla.modules.fused_cross_entropy").cross_entropy_loss

    def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, ignore_index=IGNORE, inplace_backward=True)[0]

    configured = "inplace_backward=True: least memory"
    return Provider("FLA", "logits", from_rows(row_losses), configured, needs="triton")


def _flash_attn() -> Provider:
    module = _flash_attn_module()
    if not torch.cuda.is_available():
        module.torch = _TorchWithoutDevices()
    cross_entropy = module.cross_entropy_loss

    def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, ignore_index=IGNORE, inplace_backward=True)[0]

    configured = "the Triton loss, inplace_backward=True: least memory"
    return Provider("flash-attn", "logits", from_rows(row_losses), configured, needs="triton")


def _flash_attn_module() -> Any:
    path = os.environ.get(FLASH_ATTN_FILE)
    if path is None:
        return importlib.import_module("flash_attn.ops.triton.cross_entropy")
    spec = importlib.util.spec_from_file_location("flash_attn_cross_entropy", Path(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _TorchWithoutDevices:
    """torch for a module whose launches enter a CUDA device, which the interpreter has not."""

    cuda = SimpleNamespace(device=lambda *_: nullcontext())

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _unsloth() -> Provider:
    # Importing it patches transformers and asks for a GPU: only where there is one.
    if not torch.cuda.is_available():
        raise ImportError("it imports on a GPU only")
    function = importlib.import_module("unsloth.kernels.cross_entropy_loss").Fast_CrossEntropyLoss

    def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
        return function.apply(logits, labels, 0, 0)

    configured = "its autograd function: the public one returns the mean alone"
    return Provider("Unsloth", "logits", from_rows(row_losses), configured, needs="gpu")


def _quack() -> Provider:
    configured = 'reduction="none", inplace_backward=True: least memory'
    return Provider("QuACK", "logits", from_rows(quack_rows()), configured, needs="gpu", slow_start=True)


def _compact_torch() -> Provider:
    return Provider("compact + torch", "logits", compacted(torch_rows), "logits[valid], then torch eager")


def _compact_quack() -> Provider:
    return Provider(
        "compact + QuACK",
        "logits",
        compacted(quack_rows()),
        "logits[valid], then QuACK",
        needs="gpu",
        slow_start=True,
    )


LOGITS: dict[str, Build] = {
    "cotbal": partial(ours, "cotbal", inplace=True),
    "cotbal kept": partial(ours, "cotbal kept", inplace=False),
    "torch": _torch,
    "torch fp32": _torch_upcast,
    "torch compiled": _torch_compiled,
    "Liger": _liger,
    "FLA": _fla,
    "flash-attn": _flash_attn,
    "Unsloth": _unsloth,
    "QuACK": _quack,
    "compact + torch": _compact_torch,
    "compact + QuACK": _compact_quack,
    "Liger unweighted": _liger_unweighted,
}
