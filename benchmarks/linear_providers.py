"""Losses on hidden states (R, D) and head (V, D): loss and both gradients, the products inside."""

import importlib
import inspect
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal
from benchmarks.inputs import IGNORE, LossInputs
from benchmarks.logits_providers import quack_rows, torch_rows, upcast_rows
from benchmarks.provider import Build, Loss, Provider, RowLosses, compacted, compiled, from_rows

# Logits that a chunk of a rival may hold, in bytes: as much as ours takes by default.
_BUDGET, _CPU_BUDGET = 2 * 2**30, 128 * 2**20


def over_logits(row_losses: RowLosses) -> RowLosses:
    """A loss on logits after the whole product."""

    def run(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        return row_losses(hidden @ head.t(), labels)

    return run


def _ours(*, memory_budget: int | str | None, impl: str) -> Loss:
    def run(inputs: LossInputs) -> Tensor:
        hidden, head = inputs.features
        loss = cotbal.linear_gtw_cross_entropy(
            hidden,
            head,
            inputs.labels,
            inputs.task_ids,
            inputs.task_weights,
            denominator=inputs.denominator,
            memory_budget=memory_budget,
            valid_count=inputs.valid_count,
            impl=impl,
        )
        assert isinstance(loss, Tensor)
        return loss

    return run


def ours(name: str, *, memory_budget: int | str | None = None, impl: str = "auto") -> Provider:
    """cotbal's loss; `impl` picks a path of it where a comparison needs one."""
    budget = "default" if memory_budget is None else memory_budget
    return Provider(
        name,
        "linear",
        _ours(memory_budget=memory_budget, impl=impl),
        f"memory_budget {budget}, the count of valid rows given",
        compacts=True,
        ours=True,
    )


def _torch() -> Provider:
    return Provider(
        "torch", "linear", from_rows(over_logits(torch_rows)), "full logits, eager, in their own dtype"
    )


def _torch_compiled() -> Provider:
    return Provider(
        "torch compiled",
        "linear",
        compiled(from_rows(over_logits(upcast_rows))),
        "full logits, torch.compile with static shapes; the upcast is fused",
        slow_start=True,
    )


def _torch_chunked() -> Provider:
    linear_cross_entropy = F.linear_cross_entropy
    options = torch.nn.LinearCrossEntropyOptions

    def row_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        # Its own choice of chunks is many times slower; its accumulation is left to it.
        budget = _BUDGET if hidden.is_cuda else _CPU_BUDGET
        rows = max(1, min(len(hidden), budget // (4 * len(head))))
        chosen = options(chunking_method=None, batch_chunk_size=rows)
        return linear_cross_entropy(hidden, head, labels, reduction="none", options=chosen)

    configured = "linear_cross_entropy, chunks as large as ours: 2 GiB on a GPU, 128 MiB on a CPU"
    return Provider("torch chunked", "linear", from_rows(row_losses), configured, same_on_cpu=False)


def liger_chunk_constant(rows: int, head: Tensor) -> int:
    """`chunk_mem_const` for the largest chunks within the budget: the fewest products are the fastest."""
    n_cols, width = head.shape
    whole = -(-n_cols // width)
    return max(1, min(whole, _BUDGET // (rows * width * head.element_size())))


def _liger_rows() -> RowLosses:
    module = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    function = module.LigerFusedLinearCrossEntropyFunction
    names = list(inspect.signature(function.forward).parameters)[1:]

    def row_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        # The gradients are made in its backward pass, with the weights: it computes the logits twice.
        given = {"_input": hidden, "weight": head, "target": labels, "reduction": "none"}
        given |= {
            "accum_dtype": torch.float32,
            "chunk_mem_const": liger_chunk_constant(len(hidden), head),
        }
        defaults = inspect.signature(function.forward).parameters
        return function.apply(*(given.get(name, defaults[name].default) for name in names))[0]

    return row_losses


def _liger() -> Provider:
    configured = 'reduction="none", accum_dtype float32, chunks up to 2 GiB: exact, fewest products'
    return Provider("Liger", "linear", from_rows(_liger_rows()), configured, needs="triton")


def _compact_liger() -> Provider:
    configured = "hidden[valid], then Liger as configured there"
    return Provider(
        "compact + Liger", "linear", compacted(_liger_rows()), configured, compacts=True, needs="triton"
    )


def _liger_scaled() -> Provider:
    importlib.import_module("cutlass")
    module = importlib.import_module("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    apply = module.LigerFusedLinearScaledCrossEntropyFunction.apply

    def row_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        return apply(hidden, head, labels, 1.0, IGNORE)

    return Provider(
        "Liger scaled",
        "linear",
        from_rows(row_losses),
        "the scaled loss of each row, its own kernels on sm_90",
        needs="gpu",
        slow_start=True,
    )


def _cce(filter_eps: str | None) -> RowLosses:
    linear_cross_entropy = importlib.import_module("cut_cross_entropy").linear_cross_entropy
    return partial(linear_cross_entropy, reduction="none", filter_eps=filter_eps)


def _cce_filtered() -> Provider:
    return Provider(
        "CCE",
        "linear",
        from_rows(_cce("high")),
        "its default: blocks of small gradients are left out",
        exact=False,
        compacts=True,
        needs="gpu",
    )


def _cce_exact() -> Provider:
    configured = "filter_eps=None: every gradient is computed"
    return Provider("CCE exact", "linear", from_rows(_cce(None)), configured, compacts=True, needs="gpu")


def _trl() -> Provider:
    function = importlib.import_module("trl.kernels.chunked_logprob").ChunkedLogProbFunction

    def row_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        return -function.apply(hidden, head, None, labels, 1.0, 32768, None, 1.0, ())[0]

    configured = "valid rows only and tiles of 32768 columns, as its trainer calls it; no extra outputs"
    return Provider("TRL", "linear", compacted(row_losses), configured, compacts=True, same_on_cpu=False)


def _fla() -> Provider:
    module = importlib.import_module("fla.modules.fused_linear_cross_entropy")
    loss = module.fused_linear_cross_entropy_loss

    def run(inputs: LossInputs) -> Tensor:
        hidden, head = inputs.features
        chunks = -(-hidden.shape[0] * head.shape[0] * hidden.element_size() // _BUDGET)
        return loss(
            hidden, inputs.labels, head, num_chunks=chunks, accumulate_grad_in_fp32=chunks > 1
        ).float()

    configured = "the plain mean; chunks up to 2 GiB, float32 accumulation where there are several"
    return Provider("FLA", "linear", run, configured, weighted=False, needs="triton")


def _quack() -> Provider:
    module = importlib.import_module("quack.linear_cross_entropy")
    loss = module.chunked_linear_cross_entropy

    def run(inputs: LossInputs) -> Tensor:
        hidden, head = inputs.features
        return loss(hidden, head, inputs.labels, ignore_index=IGNORE, reduction="mean").float()

    configured = "the plain mean, its own choice of pipeline and tuning"
    return Provider("QuACK", "linear", run, configured, weighted=False, needs="gpu", slow_start=True)


def _compact_torch() -> Provider:
    configured = "hidden[valid], then full logits in torch eager"
    return Provider(
        "compact + torch", "linear", compacted(over_logits(torch_rows)), configured, compacts=True
    )


def _compact_quack() -> Provider:
    return Provider(
        "compact + QuACK",
        "linear",
        compacted(over_logits(quack_rows())),
        "hidden[valid], full logits, then QuACK's loss on logits",
        compacts=True,
        needs="gpu",
        slow_start=True,
    )


# The unweighted ones last: they are held against another reference.
LINEAR: dict[str, Build] = {
    "cotbal": partial(ours, "cotbal"),
    "cotbal min": partial(ours, "cotbal min", memory_budget="min"),
    "torch": _torch,
    "torch compiled": _torch_compiled,
    "torch chunked": _torch_chunked,
    "Liger": _liger,
    "Liger scaled": _liger_scaled,
    "CCE": _cce_filtered,
    "CCE exact": _cce_exact,
    "TRL": _trl,
    "compact + torch": _compact_torch,
    "compact + Liger": _compact_liger,
    "compact + QuACK": _compact_quack,
    "FLA": _fla,
    "QuACK": _quack,
}
