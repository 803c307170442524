"""The rows of the table."""

from dataclasses import dataclass, replace

from tests.integrations.huggingface.equality.samples import BATCH


@dataclass(frozen=True)
class Row:
    """One way of training on the same samples.

    Attributes:
        name: as printed.
        ranks: the number of processes.
        per_device: samples of a micro-batch.
        stack: "trainer" (one process, or DDP), "fsdp2" (accelerate), "fsdp2 at load" (transformers), "zero1",
            "zero2" or "zero3" (DeepSpeed).
        data: what `samples` is asked for.
        shards: the number of processes that share each sequence.
        packed: samples of a micro-batch in one row, without padding.
        lora: train adapters only.
        clip: max_grad_norm, 0 for none.
        trainer: "cotbal", or a name in `trainers.CONTROLS`.
        broken: which part of cotbal is taken out, a name in `broken.BROKEN`.
    """

    name: str
    ranks: int = 1
    per_device: int = BATCH
    stack: str = "trainer"
    data: str = "all"
    shards: int = 1
    packed: bool = False
    lora: bool = False
    clip: float = 0.0
    trainer: str = "cotbal"
    broken: str | None = None

    @property
    def accumulation(self) -> int:
        """Micro-batches of a full window: every window has 8 samples."""
        return BATCH * self.shards // (self.ranks * self.per_device)

    @property
    def learning_rate(self) -> float:
        """Moves the parameters by some percent in 5 steps."""
        return 10.0 if self.clip else 1.0
