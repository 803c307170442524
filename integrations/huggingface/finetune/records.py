"""The records to train on, with their tasks."""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from cotbal.integrations.dialogues import IMAGE, Dialogue, Turn, read_dialogue
from cotbal.integrations.pictures import open_rgb
from cotbal.json_records import read_records
from cotbal.tasks import DECLARED, record_task, unknown_task

# Pictures that are looked for in one go, and how many of these at once.
_AT_ONCE, _ASKING = 1000, 32
# Keys of other tools' records that say more of what is to be learned, and would be told to no model.
_UNREAD = ("objects", "tools", "video", "videos", "audio", "audios")


class Item(NamedTuple):
    """What one record trains.

    Attributes:
        name: what it is called in an error.
        dialogue: its turns and pictures.
        stands_in: whether it trains nothing, and its picture is a blank one that is in no file.
    """

    name: str
    dialogue: Dialogue
    stands_in: bool = False


# A row of a batch whose records have no picture, so that it runs all that another rank's batch runs.
STAND_IN = Item(
    "the blank picture of batches without one",
    Dialogue((Turn("user", IMAGE), Turn("assistant", ".")), ("",)),
    stands_in=True,
)


class Records(Dataset[dict[str, Any]]):
    """Records of files, kept as text: `{"item": Item, "task": name}` each.

    Attributes:
        counts: records by task.
        images: the pictures' paths, each once, with the place of a record that has it.
        lengths: the pictures of each record, and the characters of its turns: they order records as their
            tokens do, roughly.
        prompts: the characters before the first answer.
        digests: SHA-256 of each file.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.images: dict[str, int] = {}
        self.lengths: list[tuple[int, int]] = []
        self.prompts: list[int] = []
        self.digests: list[str] = []
        # One object for all texts: each of many would be copied into every loading process that looks at it.
        self._texts, self._ends = bytearray(), array("Q")
        self._tasks: dict[str, int] = {}
        self._of_task = array("I")
        self._starts: list[tuple[int, str]] = []

    @property
    def is_mixed(self) -> bool:
        """Whether some have a picture and some do not."""
        return len({n_pictures > 0 for n_pictures, _ in self.lengths}) == 2

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> dict[str, Any]:
        start = self._ends[place - 1] if place else 0
        item = Item(self.name(place), _dialogue(json.loads(self._texts[start : self._ends[place]])))
        return {"item": item, "task": list(self._tasks)[self._of_task[place]]}

    def longest(self, count: int) -> list[int]:
        """The places of `count` records each: most pictures, most text, most text before an answer."""
        measures: list[Sequence[Any]] = [self.lengths, [text for _, text in self.lengths], self.prompts]
        places = [nlargest(count, range(len(self)), key=measure.__getitem__) for measure in measures]
        return list(dict.fromkeys(chain.from_iterable(places)))

    def name(self, place: int) -> str:
        """What a record is called: its file, and its number there."""
        start, path = next(each for each in reversed(self._starts) if each[0] <= place)
        return f"{path}, record {place - start + 1}"

    def add(self, path: str | Path, file_tasks: Mapping[str, str] | None = None) -> None:
        """Takes the records of a file, a JSON array or JSONL.

        Args:
            path: the file.
            file_tasks: task by file, for records that name none.

        Raises:
            OSError: the file cannot be read.
            ValueError: a record that cannot be trained on, or without a task; its number is told.
        """
        digest, start = hashlib.sha256(), len(self)
        self._starts.append((start, str(path)))
        quiet = os.environ.get("RANK", "0") != "0"
        found = tqdm(read_records(path, digest), Path(path).name, unit=" records", delay=2, disable=quiet)
        for place, record in enumerate(found, start=start):
            try:
                task = record_task(record.content, field=DECLARED, file=path, file_tasks=file_tasks)
                dialogue = _dialogue(record.content)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{self.name(place)}: {error}") from error
            self._texts += record.text.encode()
            self._ends.append(len(self._texts))
            self._of_task.append(self._tasks.setdefault(task, len(self._tasks)))
            self.counts[task] += 1
            texts = [len(turn.text) for turn in dialogue.turns]
            self.lengths.append((len(dialogue.images), sum(texts)))
            self.prompts.append(sum(texts[: _first_answer(dialogue)]))
            for image in dialogue.images:
                self.images.setdefault(image, place)
        self.digests.append(digest.hexdigest())


def read_files(
    paths: Sequence[str], file_tasks: Mapping[str, str] | None = None, known: Sequence[str] | None = None
) -> Records:
    """The records of some files.

    Args:
        paths: the files.
        file_tasks: task by file, for records that name none.
        known: the tasks that have a weight; None: any.

    Raises:
        OSError: a file cannot be read.
        ValueError: as `Records.add`, or a task without a weight.
    """
    records = Records()
    for path in paths:
        records.add(path, file_tasks)
    unknown = [task for task in records.counts if known is not None and task not in known]
    if known is not None and unknown:
        count = sum(records.counts[task] for task in unknown)
        raise ValueError(
            f"--data: {count} of {len(records)} records have a task without a weight, "
            f"{unknown_task(unknown[0], known)}. Add it to the weights, or take those records out"
        )
    return records


def check_pictures(records: Records, folder: Path) -> None:
    """Raises ValueError where a picture is not in the folder; how many, and the first."""
    images = list(records.images)
    parts = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    # A file server takes a millisecond for each, and answers many at once.
    with ThreadPoolExecutor(_ASKING) as pool, tqdm(total=len(images), desc="pictures", delay=2) as bar:
        missing = []
        for part, found in zip(parts, pool.map(partial(_missing, folder), parts), strict=True):
            missing += found
            bar.update(len(part))
    if missing:
        raise ValueError(
            f"--image_folder: {len(missing)} of {len(records.images)} pictures are not there, the first is "
            f"{folder / missing[0]} of {records.name(records.images[missing[0]])}"
        )


def _missing(folder: Path, images: Sequence[str]) -> list[str]:
    # A path takes twice as long as a look at the file; it raises where a folder may not be read.
    there, join = os.path.isfile, os.path.join
    return [image for image in images if not (there(join(folder, image)) or (folder / image).is_file())]


def pictures_of(item: Item, folder: Path) -> list[Image.Image]:
    """The pictures of a record, in RGB.

    Raises:
        ValueError: a file is no picture.
    """
    if item.stands_in:
        return [Image.new("RGB", (64, 64))]
    try:
        return [open_rgb(folder / image) for image in item.dialogue.images]
    except ValueError as error:
        raise ValueError(f"{item.name}: {error}") from error


def _dialogue(record: Mapping[str, Any]) -> Dialogue:
    """The record's dialogue, an `<image>` in its questions for each picture.

    Raises:
        ValueError: it is not so.
    """
    given = [form for form in ("conversations", "messages") if record.get(form)]
    if len(given) == 2:
        raise ValueError("expected its turns in `conversations` or in `messages`, got both; keep one")
    form = given[0] if given else "conversations"
    dialogue = read_dialogue(record, form)
    _refuse_unread(record, form)
    shown = [turn.text.count(IMAGE) for turn in dialogue.turns]
    if sum(shown) != len(dialogue.images):
        raise ValueError(
            f"expected {len(dialogue.images)} {IMAGE} in its turns, one for each picture, got {sum(shown)}"
        )
    if any(shown[_first_answer(dialogue) :: 2]):
        raise ValueError(f"expected every {IMAGE} in a question, got one in an answer")
    return dialogue


def _refuse_unread(record: Mapping[str, Any], form: str) -> None:
    """Raises ValueError for a key that says something, of which nothing would be trained."""
    # Exports of a table have each key in every record, empty where it says nothing.
    # `objects` are ms-swift's boxes for its <bbox>; beside LLaVA's turns it may be anything.
    found = [key for key in _UNREAD if record.get(key)]
    if unread := [key for key in found if (key, form) != ("objects", "conversations")]:
        raise ValueError(
            f"expected all that is trained on in `{form}`, pictures in `image`, got the key {unread[0]!r}, "
            "which is not read; move what it says there, or take it out"
        )


def _first_answer(dialogue: Dialogue) -> int:
    """The place of its turn."""
    return 2 if dialogue.turns[0].role == "system" else 1
