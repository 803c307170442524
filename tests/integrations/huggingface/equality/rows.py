"""The rows of the table."""

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from tests.integrations.huggingface.equality.samples import BATCH


@dataclass(frozen=True)
class Row:
    """One way of training on the same samples.

    Attributes:
        name: as printed.
        ranks: the number of processes.
        per_device: samples of a micro-batch.
        stack: "trainer" (one process, or DDP), "fsdp2" (accelerate), "fsdp2 at load" (transformers, its
            tensor parallel too), "zero0", "zero1", "zero2", "zero3", "zero3 at load" (DeepSpeed) or "loop"
            (without a Trainer).
        data: what `samples` is asked for.
        shards: the number of processes that share each sequence, in a loop.
        replicas: the number of processes that share each layer and have the same batch (tensor parallel).
        copies: how many groups of processes hold the whole model among them (HSDP).
        scaler: scale the loss by 65,536 as for fp16, in a loop.
        packed: samples of a micro-batch in one row, without padding.
        lora: train adapters only.
        tied: the head's weight is the embedding's.
        clip: max_grad_norm, 0 for none.
        dynamic: weights by DWA(window=1, temperature=TEMPERATURE) in place of the given ones.
        level: where cotbal's loss is, as in `CoTBalTrainer`.
        trainer: "cotbal", "equal weights" or a name in `trainers.CONTROLS`.
        without: the part of cotbal that is taken out, as in `broken`.
    """

    name: str
    ranks: int = 1
    per_device: int = BATCH
    stack: str = "trainer"
    data: str = "all"
    shards: int = 1
    replicas: int = 1
    copies: int = 1
    scaler: bool = False
    packed: bool = False
    lora: bool = False
    tied: bool = False
    clip: float = 0.0
    dynamic: bool = False
    level: str = "linear"
    trainer: str = "cotbal"
    without: str | None = None

    @property
    def needs_deepspeed(self) -> bool:
        return self.stack.startswith("zero") or self.shards > 1

    @property
    def not_run(self) -> str | None:
        """Why this machine cannot run it, or None."""
        kinds = (self.stack, "packed" if self.packed else "", "deepspeed" if self.needs_deepspeed else "")
        for package, version in [_NEEDS[kind] for kind in kinds if kind in _NEEDS]:
            if not find_spec(package) or Version(metadata.version(package)) < Version(version):
                return f"needs {package} {version} or newer"
        return None

    @property
    def accumulation(self) -> int:
        """Micro-batches of a full window: every window has 8 samples."""
        return BATCH * self.shards * self.replicas // (self.ranks * self.per_device)

    @property
    def learning_rate(self) -> float:
        """Moves the parameters by some percent in 5 steps."""
        return 10.0 if self.clip else 1.0


# The oldest that was seen to do it on a CPU.
_NEEDS = {
    "fsdp2": ("accelerate", "1.15"),
    "fsdp2 at load": ("transformers", "5.23"),
    "deepspeed": ("deepspeed", "0.19.8"),
    # Before, only flash-attn tells packed segments apart.
    "packed": ("transformers", "4.57"),
}
# Without a GPU its kernels run in Triton's interpreter.
HAS_LIGER = find_spec("liger_kernel") is not None
# What comes before a row's name on each stack.
STACKS = {
    "trainer": "",
    "fsdp2": "FSDP2, ",
    "fsdp2 at load": "FSDP2 of transformers, ",
    "zero0": "DeepSpeed without ZeRO, ",
    "zero1": "ZeRO-1, ",
    "zero2": "ZeRO-2, ",
    "zero3": "ZeRO-3, ",
    "zero3 at load": "ZeRO-3 from loading on, ",
}


def _row(name: str, stack: str = "trainer", **options: Any) -> Row:
    return Row(STACKS[stack] + name, stack=stack, **options)


_HALVES: dict[str, Any] = {"ranks": 2, "per_device": 4}
_QUARTERS: dict[str, Any] = {"ranks": 2, "per_device": 2}
# Each edge on 2 ranks.
EDGES: dict[str, dict[str, Any]] = {
    "2 ranks x 4": _HALVES,
    "2 ranks x 4, one of them all ignored": {**_HALVES, "data": "ignored rank"},
    "2 ranks x 4, packed": {**_HALVES, "packed": True},
    "2 ranks x 4, LoRA": {**_HALVES, "lora": True},
    "2 ranks x 4, logits level": {**_HALVES, "level": "logits"},
    "2 ranks x 4, clipping 0.1": {**_HALVES, "clip": 0.1},
    "2 ranks x 2, 2 accumulated": _QUARTERS,
    "2 ranks x 2, 2 accumulated, DWA": {**_QUARTERS, "dynamic": True},
    "2 ranks x 2, 2 accumulated, short last window": {**_QUARTERS, "data": "short last window"},
    "2 ranks x 2, 2 accumulated, an empty micro-batch": {**_QUARTERS, "data": "empty micro-batch"},
}


def _edges(stack: str, *names: str) -> list[Row]:
    return [_row(name, stack, **EDGES[name]) for name in names or EDGES]


# The short form, in `make test`: each way of splitting the batch, each edge and each stack once.
SHORT = (
    Row("batch 8"),
    Row("4 x 2 accumulated", per_device=2),
    Row("4 x 2 accumulated, short last window", per_device=2, data="short last window"),
    Row("4 x 2 accumulated, an empty micro-batch", per_device=2, data="empty micro-batch"),
    Row("packed, 2 x 4 accumulated", per_device=4, packed=True),
    Row("LoRA, 4 x 2 accumulated", per_device=2, lora=True),
    *_edges(
        "trainer", "2 ranks x 4", "2 ranks x 4, one of them all ignored", "2 ranks x 2, 2 accumulated, DWA"
    ),
    *_edges("fsdp2", "2 ranks x 2, 2 accumulated", "2 ranks x 4, packed"),
    *_edges("fsdp2 at load", "2 ranks x 4, clipping 0.1"),
    *_edges("zero1", "2 ranks x 4, logits level"),
    *_edges("zero2", "2 ranks x 2, 2 accumulated", "2 ranks x 4, clipping 0.1"),
    *_edges(
        "zero3", "2 ranks x 2, 2 accumulated, short last window", "2 ranks x 4, LoRA", "2 ranks x 4, packed"
    ),
    *_edges("zero3 at load", "2 ranks x 4"),
    Row("4 x 2 accumulated, a loss scaler, a loop", per_device=2, scaler=True, stack="loop"),
    Row("2 sequence shards, a loop", ranks=2, shards=2, stack="loop"),
    Row("2 tensor-parallel ranks", 2, stack="fsdp2 at load", replicas=2, level="logits"),
    Row("4 ranks x 2", ranks=4, per_device=2),
    *(_row("2 ranks x 4, tied head", stack, tied=True, **_HALVES) for stack in ("fsdp2", "zero3")),
)
# The whole form, in `make test-full`: each stack with each edge.
WHOLE = (
    *SHORT,
    Row("4 x 2 accumulated, an empty window", per_device=2, data="empty window"),
    Row("4 x 2 accumulated, clipping 0.1", per_device=2, clip=0.1),
    Row("packed, batch 8", packed=True),
    Row("LoRA, batch 8", lora=True),
    *(row for stack in STACKS for row in _edges(stack) if row not in SHORT),
    *(_row("2 ranks x 4, tied head", stack, tied=True, **_HALVES) for stack in ("trainer", "fsdp2 at load")),
    *(_row("2 ranks x 4, tied head", stack, tied=True, **_HALVES) for stack in ("zero2", "zero3 at load")),
    Row("2 copies of FSDP2 on 2 ranks (HSDP)", 4, 2, stack="fsdp2 at load", copies=2),
    Row("2 copies of FSDP2 on 2 ranks (HSDP), 2 accumulated", 4, 1, stack="fsdp2 at load", copies=2),
    Row("FSDP2 x tensor parallel, 2 x 2 ranks", 4, 4, stack="fsdp2 at load", replicas=2, level="logits"),
    *(_row("4 ranks x 2", stack, ranks=4, per_device=2) for stack in STACKS if stack != "trainer"),
    _row("4 ranks x 1, 2 accumulated", "zero3", ranks=4, per_device=1),
    Row("2 sequence shards, 2 accumulated, a loop", ranks=2, per_device=4, shards=2, stack="loop"),
    Row("2 ranks x 2 sequence shards, 2 accumulated, a loop", 4, 2, shards=2, stack="loop"),
)
# Another loss than Eq. 2 over the whole step; each must miss.
CONTROLS = (
    Row("stock Trainer, 2 ranks x 4", trainer="stock", **_HALVES),
    Row(f"Liger{'' if HAS_LIGER else ' (emulated)'}, 2 ranks x 4", trainer="liger", **_HALVES),
    Row("per-device weighted mean, 2 ranks x 4", trainer="per device", **_HALVES),
    Row("per-device weighted mean, 4 x 2 accumulated", trainer="per device", per_device=2),
    Row("equal weights, 2 ranks x 4", trainer="equal weights", **_HALVES),
)
# A part of cotbal taken out; each must miss.
BROKEN = (
    Row("2 ranks x 4, averaging over ranks not undone", without="factor", **_HALVES),
    Row("2 ranks x 4, counts not summed over ranks", without="all-reduce", **_HALVES),
    Row("2 ranks x 4, DWA of each rank's own losses", dynamic=True, without="sums", **_HALVES),
    Row("4 x 2 accumulated, only a micro-batch counted", without="window", per_device=2),
    Row("batch 8, first labels counted", without="shift"),
)
# What a machine without a GPU cannot run.
NOT_RUN = {
    "fp16 and its loss scaler, Trainer": "accelerate refuses fp16 on a CPU",
    "packed, flash-attn": "it has no CPU kernels",
}
