"""Records of about the same length in one batch: fewer of its tokens are padding."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments

from cotbal.integrations.huggingface.trainer import CoTBalTrainer

# Batches to whose records a batch's are compared.
_POOL = 50


class LengthSampler(Sampler[int]):
    """Places of records: random batches, each of records that are alike in length, in a random order.

    The longest batch is the first, so that memory which does not suffice is told at once.

    Args:
        lengths: of each record, whatever compares.
        n_batch: records of a micro-batch on all ranks.
        seed: with the epoch, of the order.
        epoch: that which begins, so that a resumed training has the order of the unbroken one. `set_epoch`
            would not reach this: on several ranks it lies behind the batches that are left out then.
    """

    def __init__(self, lengths: Sequence[Any], n_batch: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.n_batch, self.seed, self.epoch = lengths, n_batch, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        order = torch.randperm(len(self), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), _POOL * self.n_batch):
            pool = order[start : start + _POOL * self.n_batch]
            pool.sort(key=self.lengths.__getitem__, reverse=True)
            batches += [pool[place : place + self.n_batch] for place in range(0, len(pool), self.n_batch)]
        # A short one in the middle would move the bounds of all that follow.
        last = [batches.pop()] if len(order) % self.n_batch else []
        mixed = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        if mixed:
            longest = max(range(len(mixed)), key=lambda place: self.lengths[mixed[place][0]])
            mixed[0], mixed[longest] = mixed[longest], mixed[0]
        for batch in [*mixed, *last]:
            yield from batch


class FinetuneTrainer(CoTBalTrainer):
    """A `CoTBalTrainer` on `Records`, which groups them by length where that is asked for."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        if not groups_lengths(self.args):
            return super()._get_train_sampler(*args, **kwargs)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        n_batch = self.args.train_batch_size * self.args.world_size
        return LengthSampler(self.train_dataset.lengths, n_batch, seed, lambda: int(self.state.epoch or 0))


def groups_lengths(args: TrainingArguments) -> bool:
    """Whether a batch is of records of about the same length; transformers 5 has another name for it."""
    strategy: str = getattr(args, "train_sampling_strategy", "random")
    return bool(getattr(args, "group_by_length", False)) or strategy == "group_by_length"
