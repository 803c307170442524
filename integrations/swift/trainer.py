"""ms-swift's Seq2SeqTrainer with the exact loss of the step; the task is what a record's `channel` holds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from swift.trainers import Seq2SeqTrainer
from torch import Tensor

from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.no_logits import NoLogits
from cotbal.integrations.huggingface.trainer import CoTBalMixin
from cotbal.integrations.swift import plugging
from cotbal.integrations.swift.channels import CHANNEL, channel_counts, known_channels
from cotbal.integrations.telling import data_in_words


class ChannelCollator(TaskCollator):
    """A `TaskCollator` of ms-swift's collator; packed records come as a list of those in one row."""

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        """Returns the batch, with one id per record, packed or not.

        Raises:
            ValueError: in training, a record without a channel, or of one that has no weight.
        """
        rows = [each if isinstance(each, list) else [each] for each in features]
        records = [record for row in rows for record in row]
        if self.makes_ids:
            known_channels(Counter(record.get(CHANNEL) for record in records), self.tasks)
        return super().__call__(records)


class CoTBalSeq2SeqTrainer(CoTBalMixin, Seq2SeqTrainer):
    """What `swift sft` trains with once `balance` was called, by its weights, tasks and level.

    Raises:
        ValueError: a record without a channel, a channel without a weight, or as `CoTBalMixin`.
    """

    def __init__(self, *args: Any, train_dataset: Any, **kwargs: Any) -> None:
        weighting = plugging.chosen.weighting()
        counts = channel_counts(train_dataset)
        names = plugging.chosen.names()
        if counts is not None:
            names = known_channels(counts, names)
        if names is None:
            raise ValueError(
                "tasks: expected the task names of records that are streamed, got none, and the rule names "
                "none; call balance(..., tasks=[...])"
            )
        self._channels = names
        level = plugging.chosen.level
        super().__init__(*args, train_dataset=train_dataset, weights=weighting, level=level, **kwargs)
        # It would cut the labels after they were counted; the linear level makes no logits of ignored ones.
        self.args.use_logits_to_keep = False
        if counts is not None and self.is_world_process_zero():
            print(f"cotbal: {data_in_words(counts, names, weighting)}", flush=True)

    def _get_data_collator(self, *args: Any) -> ChannelCollator:
        return ChannelCollator(super()._get_data_collator(*args), self._channels, field=CHANNEL)

    def _compute_acc(self, outputs: Any, labels: Tensor, **kwargs: Any) -> None:
        # At the linear level there are no logits to take it from; task_accuracy/<name> is logged.
        if not isinstance(outputs.logits, NoLogits):
            super()._compute_acc(outputs, labels, **kwargs)
