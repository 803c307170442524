"""ShareGPT: `ShareGPT_V3_unfiltered_cleaned_split.json`, or any array of such conversations.

A conversation is `{"id", "conversations": [{"from": "human" | "gpt", "value"}, ...]}`; other keys, as
`model` in later files, are passed over. Invalid ones are left out by the rules of Vicuna's preparation,
records with a picture as well, so that LLaVA's own mixture is read.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.collect.records import Record
from cotbal.data.conversations import conversation
from cotbal.data.fields import checked
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_array
from cotbal.data.processes import processes
from cotbal.data.task_folder import TaskFolder
from cotbal.data.tokens import MOST_TOKENS, Counter, fitting, load_counter
from cotbal.data.vqa import Target
from cotbal.files import is_utf8

TASK = "ShareGPT"
FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"
# Answers of a model that speaks of its maker, which Vicuna's preparation leaves out.
BLOCKED = ("openai", "chatgpt")
_BATCH = 512

Pairs = list[tuple[str, str]]


class _Cleaned(NamedTuple):
    reason: str | None  # why it is left out
    pairs: Pairs
    cut: bool


def prepare_sharegpt(
    annotations: Path,
    target: Target,
    inputs: Inputs,
    *,
    tokenizer: str,
    most_tokens: int = MOST_TOKENS,
    workers: int = 1,
) -> list[dict[str, Any]]:
    """Writes the task ShareGPT, training records alone; what was written.

    Args:
        annotations: the file, or its folder.
        target: where to.
        inputs: what is read.
        tokenizer: a tokenizer.json, its folder, or a name that transformers knows.
        most_tokens: longer conversations are cut after the last answer that fits.
        workers: processes that count tokens; the result is the same with any number.

    Raises:
        OSError, ValueError: the file is missing, cut off or of another form; no such tokenizer.
    """
    path = annotations / FILE if annotations.is_dir() else annotations
    there(path, needed=True)
    # Before any process starts: a wrong name is told at once.
    counter = load_counter(tokenizer)
    folder = TaskFolder(target.out, TASK, target.form, [path])
    folder.train(_records(path, inputs, counter, tokenizer, most_tokens, workers), inputs)
    return [folder.finish("sharegpt", target.seed, inputs, most_tokens=most_tokens)]


def _records(
    path: Path, inputs: Inputs, counter: Counter, tokenizer: str, most_tokens: int, workers: int
) -> Iterator[dict[str, Any]]:
    found = enumerate(read_array(path, inputs))
    with ExitStack() as stack:
        pool = None
        if workers > 1:
            pool = stack.enter_context(processes(workers, _start, tokenizer, most_tokens))
        # In batches: the pool would take a whole iterator into memory.
        while batch := list(islice(found, _BATCH * workers)):
            fields = [record.fields for _, record in batch]
            if pool is None:
                cleaned = [clean(each, counter, most_tokens) for each in fields]
            else:
                cleaned = list(pool.map(_clean, fields, chunksize=32))
            for (place, record), each in zip(batch, cleaned, strict=True):
                if each.reason is not None:
                    inputs.leave_out(each.reason)
                    continue
                inputs.cut += each.cut
                yield conversation(_id(record, place), None, each.pairs)


def _id(record: Record, place: int) -> str:
    value = record.fields.get("id")
    return checked(record, "id", str(value)) if type(value) in (str, int) else f"{TASK}-{place}"


_counter: Counter
_most_tokens: int


def _start(tokenizer: str, most_tokens: int) -> None:
    global _counter, _most_tokens
    _counter, _most_tokens = load_counter(tokenizer), most_tokens


def _clean(fields: dict[str, Any]) -> _Cleaned:
    return clean(fields, _counter, _most_tokens)


def clean(fields: dict[str, Any], counter: Counter, most_tokens: int) -> _Cleaned:
    """The questions and answers of a conversation, or why it is left out."""
    found = pairs(fields)
    if isinstance(found, str):
        return _Cleaned(found, [], False)
    kept = fitting(found, counter, most_tokens)
    if not kept:
        return _Cleaned("no answer within the tokens", [], False)
    return _Cleaned(None, kept, kept != found)


def pairs(fields: dict[str, Any]) -> Pairs | str:
    """The questions with their answers, or why the conversation is invalid."""
    turns = fields.get("conversations")
    # Tables write nothing as null: the records of text alone in LLaVA's mixture, saved again.
    if fields.get("image") not in (None, ""):
        return "with a picture"
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "no conversation"
    if any(not isinstance(turn.get("value"), str) or "from" not in turn for turn in turns):
        return "no conversation"
    # Some begin in the middle, some end with a question.
    turns = turns[1:] if turns and turns[0]["from"] != "human" else turns
    turns = turns[:-1] if turns and turns[-1]["from"] == "human" else turns
    if len(turns) < 2:
        return "too short"
    if any(turn["from"] != ("human", "gpt")[place % 2] for place, turn in enumerate(turns)):
        return "roles do not alternate"
    values = [turn["value"].strip() for turn in turns]
    for value in values:
        if reason := _wrong(value):
            return reason
    return list(zip(values[::2], values[1::2], strict=True))


def _wrong(value: str) -> str | None:
    if not value:
        return "an empty text"
    if "<image>" in value:
        return "holds <image>"
    if any(word in value.lower() for word in BLOCKED):
        return "speaks of the model's maker"
    return None if is_utf8(value) else "not UTF-8"
