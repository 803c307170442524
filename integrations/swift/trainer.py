"""ms-swift's Seq2SeqTrainer with the exact loss of the step; the task is what a record's `channel` holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from swift.trainers import Seq2SeqTrainer
from torch import Tensor

from cotbal.balancing import Weighting
from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.no_logits import NoLogits
from cotbal.integrations.huggingface.trainer import CoTBalMixin
from cotbal.integrations.swift import plugging
from cotbal.tasks import unknown_task

# ms-swift's own word for the source of a record; its template and its collator know it.
CHANNEL = "channel"


class ChannelCollator(TaskCollator):
    """A `TaskCollator` of ms-swift's collator; packed records come as a list of those in one row."""

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        """Returns the batch, with one id per record, packed or not.

        Raises:
            ValueError: in training, a record without a channel, or of one that has no weight.
        """
        rows = [each if isinstance(each, list) else [each] for each in features]
        records = [record for row in rows for record in row]
        if self.evaluated is None:
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
        super().__init__(
            *args,
            train_dataset=train_dataset,
            weights=weighting,
            level=plugging.chosen.level,
            **kwargs,
        )
        # It would cut the labels after they were counted; the linear level makes no logits of ignored ones.
        self.args.use_logits_to_keep = False
        if counts is not None and self.is_world_process_zero():
            print(f"cotbal: {_summary(counts, weighting)}", flush=True)

    def _get_data_collator(self, *args: Any) -> ChannelCollator:
        return ChannelCollator(super()._get_data_collator(*args), self._channels, field=CHANNEL)

    def _compute_acc(self, outputs: Any, labels: Tensor, **kwargs: Any) -> None:
        # At the linear level there are no logits to take it from; task_accuracy/<name> is logged.
        if not isinstance(outputs.logits, NoLogits):
            super()._compute_acc(outputs, labels, **kwargs)


def channel_counts(dataset: Any) -> Counter[str | None] | None:
    """How many records each channel has, None for those without; None where they are streamed."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    columns = getattr(dataset, "column_names", None)
    if columns is None or not hasattr(dataset, "__len__"):
        return None
    return Counter(dataset[CHANNEL]) if CHANNEL in columns else Counter({None: len(dataset)})


def known_channels(counts: Mapping[str | None, int], names: Sequence[str] | None) -> tuple[str, ...]:
    """The task names in the order of their ids, where every record's channel is one of them.

    Args:
        counts: records by channel.
        names: those of the weights; None: the channels of the data, sorted.

    Raises:
        ValueError: records without a channel, or of one that has no weight.
    """
    present = sorted(name for name in counts if name is not None)
    known = present if names is None else list(names)
    if counts.get(None):
        raise ValueError(
            f"channel: expected each record's task in it, got none in {counts[None]} of "
            f'{sum(counts.values())} records; known tasks: {", ".join(known)}. Write "channel" into each '
            'record, or name the key that tells it: --columns \'{"task": "channel"}\''
        )
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ValueError(
            f"channel: expected tasks that have a weight, got {counts[unknown[0]]} records of "
            f"{unknown_task(unknown[0], known)}. Add it to the weights, or take those records out"
        )
    return tuple(known)


def _summary(counts: Mapping[str | None, int], weighting: Weighting) -> str:
    given = getattr(weighting, "given", None)
    rule = f"weights by {type(weighting).__name__}"
    if given is not None:
        rule = "weights " + ", ".join(f"{name} {weight:g}" for name, weight in given.items())
    return f"{sum(counts.values())} records: {', '.join(f'{k} {v}' for k, v in counts.items())}; {rule}"
