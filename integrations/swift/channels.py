"""The `channel` of each record: ms-swift's own word for its source, here its task."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from cotbal.tasks import find_task, unknown_task

# ms-swift's template and collator know it.
CHANNEL = "channel"
# By the name that ms-swift gives it.
_ONCE = {
    "messages": "messages",
    "images": "pictures",
    "videos": "videos",
    "audios": "sounds",
    CHANNEL: "task",
}


def channel_counts(dataset: Any) -> Counter[str | None] | None:
    """How many records each channel has, None for those without; None where they are streamed."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    if not hasattr(dataset, "column_names") or not hasattr(dataset, "__len__"):
        return None
    return Counter(_channels(dataset))


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
            'record, or name the key that tells it, --columns \'{"task": "channel"}\', or the task of each '
            "file, balance(tasks={'vqa.jsonl': 'VQAv2'})"
        )
    unknown = [name for name in present if name not in known]
    if unknown:
        raise ValueError(
            f"channel: expected tasks that have a weight, got {counts[unknown[0]]} records of "
            f"{unknown_task(unknown[0], known)}. Add it to the weights, or take those records out"
        )
    return tuple(known)


def with_channels(own: Callable[..., Any], file_tasks: Callable[[], Mapping[str, str]]) -> Callable[..., Any]:
    """ms-swift's `DatasetLoader.load`, after which records that name no channel have that of their file.

    Args:
        own: its own.
        file_tasks: the task by dataset, as it stands in `--dataset` without `#sample`, or by its bare name.
    """

    @wraps(own)
    def load(loader: Any, syntax: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = own(loader, syntax, *args, **kwargs)
        task = find_task({}, file=syntax.dataset, file_tasks=file_tasks())[1]
        if task is None:
            return dataset
        if not hasattr(dataset, "__len__"):
            return dataset.map(lambda record: {**record, CHANNEL: record.get(CHANNEL) or task})
        filled = [channel or task for channel in _channels(dataset)]
        if CHANNEL in dataset.column_names:
            dataset = dataset.remove_columns(CHANNEL)
        return dataset.add_column(CHANNEL, filled)

    return load


def one_key_each(own: Callable[..., Any]) -> Callable[..., Any]:
    """ms-swift's `RowPreprocessor.safe_rename_columns`, which leaves out what stands under a second key.

    Args:
        own: its own; given a data set and the new name by key.
    """

    @wraps(own)
    def rename(dataset: Any, columns: Mapping[str, str]) -> Any:
        new = {key.lower(): name for key, name in columns.items()}
        for name, what in _ONCE.items():
            keys = sorted(key for key in dataset.column_names or () if new.get(key.lower(), key) == name)
            if len(keys) > 1:
                spare = name if name in keys else keys[0]
                raise ValueError(
                    f"--dataset: expected the {what} of all records under one key, got {' and '.join(keys)}: "
                    "ms-swift takes one for all. Write them under one; to leave one out, name it, as in "
                    f'--columns \'{{"{spare}": "unused"}}\''
                )
        return own(dataset, columns)

    return rename


def _channels(dataset: Any) -> list[str | None]:
    return list(dataset[CHANNEL]) if CHANNEL in dataset.column_names else [None] * len(dataset)
