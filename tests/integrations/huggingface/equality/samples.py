"""The data of the table: records of four tasks whose losses and lengths differ, and their batches."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_positions
from torch.nn.utils.rnn import pad_sequence

VOCABULARY = 96
BATCH = 8
STEPS = 5
# The share of tokens that repeat the one before: the tiny model guesses repetition, so it sets a task's loss.
REPEATED = {"echo": 0.9, "stutter": 0.6, "chat": 0.3, "noise": 0.0}
TASKS = tuple(REPEATED)
WEIGHTS = {"echo": 0.25, "stutter": 4.0, "chat": 0.5, "noise": 2.0}
# Of the dynamic weights: low, so that they differ.
TEMPERATURE = 0.2
# By position in a batch of 8: with 2 or 4 ranks each gets another number of tokens.
LENGTHS = (34, 28, 24, 30, 12, 9, 7, 10)
# Of all samples, even: each gets up to 2 tokens more.
LONGEST = max(LENGTHS) + 2
# The positions whose labels are all ignored, and in which windows.
IGNORED: dict[str, tuple[range, range]] = {
    "empty micro-batch": (range(2, 4), range(STEPS)),
    "ignored rank": (range(4, 8), range(1, STEPS, 2)),
    "empty window": (range(8), range(2, 3)),
}


def samples(data: str) -> list[dict[str, Any]]:
    """Records {input_ids [S], labels [S], task}; `data` is "all", "short last window" or of IGNORED."""
    generator = torch.Generator().manual_seed(5)
    positions, windows = IGNORED.get(data, (range(0), range(0)))
    count = STEPS * BATCH + (BATCH // 2 if data == "short last window" else 0)
    records = []
    for index in range(count):
        window, position = divmod(index, BATCH)
        record = _record(TASKS[_integer(len(TASKS), generator)], LENGTHS[position], generator)
        if position in positions and window in windows:
            record["labels"] = [-100] * len(record["labels"])
        records.append(record)
    return records


def _record(task: str, length: int, generator: torch.Generator) -> dict[str, Any]:
    length += _integer(3, generator)
    input_ids = torch.randint(VOCABULARY, (length,), generator=generator)
    repeated = torch.rand(length, generator=generator) < REPEATED[task]
    for position in range(1, length):
        if repeated[position]:
            input_ids[position] = input_ids[position - 1]
    # A prompt; plain text has none, and its first label is no target even so.
    prompt = 0 if task == "noise" else length // 4
    tokens = input_ids.tolist()
    return {"input_ids": tokens, "labels": [-100] * prompt + tokens[prompt:], "task": task}


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def pad(records: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A padded batch: input_ids, attention_mask, labels, each (B, S) int64."""
    input_ids = [torch.tensor(record["input_ids"]) for record in records]
    labels = [torch.tensor(record["labels"]) for record in records]
    return {
        "input_ids": pad_sequence(input_ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids in input_ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def pad_to_longest(records: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch that sequences can be cut up in: of one even length, with positions in place of the mask."""
    batch = pad(records)
    missing = (0, LONGEST - batch["input_ids"].shape[1])
    return {
        "input_ids": pad_positions(batch["input_ids"], missing),
        "labels": pad_positions(batch["labels"], missing, value=-100),
        "position_ids": torch.arange(LONGEST).repeat(len(records), 1),
    }


def task_ids(records: list[dict[str, Any]]) -> Tensor:
    """(B,) int64: the place of each record's task in TASKS."""
    return torch.tensor([TASKS.index(record["task"]) for record in records])
