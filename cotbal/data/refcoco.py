"""RefCOCO, RefCOCOg and RefCOCO+: `refs(...).p` and `instances.json` in a folder for each, as released.

A sentence and the box of what it describes make a turn of two tasks: the caption task asks for the sentence,
the bbox task for the box. RefCOCO and RefCOCOg together are the tasks RefCOCO-caption and RefCOCO-bbox, their
turns on one picture merged; RefCOCO+ makes two tasks of its own, no part of the paper's mixture.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.collect.records import Record
from cotbal.data.boxes import box_text
from cotbal.data.conversations import merged
from cotbal.data.fields import filled, members, whole
from cotbal.data.files_of import there
from cotbal.data.inputs import Inputs
from cotbal.data.json_reader import read_lists
from cotbal.data.pictures import Pictures
from cotbal.data.refs_pickle import read_refs
from cotbal.data.table1 import BBOX_INSTRUCTION, CAPTION_INSTRUCTION
from cotbal.data.task_folder import TaskFolder
from cotbal.data.turns import Turn, Turns
from cotbal.data.vqa import Target

MOST_TURNS = 9
KINDS = ("caption", "bbox")


class _Set(NamedTuple):
    family: str  # the tasks' names begin with it
    refs: str
    splits: dict[str, str]  # of the publisher: ours, where "val" takes those of all sets


_SETS = {
    "refcoco": _Set(
        "RefCOCO",
        "refs(unc).p",
        {"train": "train", "val": "val", "testA": "test_Ref-test", "testB": "test_Ref-testB"},
    ),
    "refcocog": _Set("RefCOCO", "refs(umd).p", {"train": "train", "val": "val", "test": "test_Refg-test"}),
    "refcoco+": _Set(
        "RefCOCO+",
        "refs(unc).p",
        {"train": "train", "val": "val", "testA": "test_Ref+-test", "testB": "test_Ref+-testB"},
    ),
}


class _Region(NamedTuple):
    box: str
    image: str


def prepare_refcoco(
    annotations: Sequence[Path],
    target: Target,
    inputs: Inputs,
    *,
    kinds: Sequence[str] = KINDS,
    most_turns: int = MOST_TURNS,
) -> list[dict[str, Any]]:
    """Writes the tasks FAMILY-caption and FAMILY-bbox of the folders that are given; what was written.

    Args:
        annotations: folders named refcoco, refcocog and refcoco+.
        target: where to; the pictures are COCO's train2014.
        inputs: what is read.
        kinds: "caption", "bbox" or both.
        most_turns: of a training conversation.

    Raises:
        OSError, ValueError: a file is missing, cut off or of another form; a box outside its picture.
    """
    for folder in annotations:
        if folder.name not in _SETS:
            raise ValueError(f"--annotations: expected folders named {', '.join(_SETS)}, got {folder}")
    if len({folder.name for folder in annotations}) != len(annotations):
        raise ValueError("--annotations: expected each data set once")
    written = []
    for family in dict.fromkeys(_SETS[folder.name].family for folder in annotations):
        mine = [folder for folder in annotations if _SETS[folder.name].family == family]
        written += _write_family(family, mine, target, inputs, kinds, most_turns)
    return written


def _write_family(
    family: str, folders: list[Path], target: Target, inputs: Inputs, kinds: Sequence[str], most_turns: int
) -> list[dict[str, Any]]:
    outs = {kind: TaskFolder(target.out, f"{family}-{kind}", target.form) for kind in kinds}
    stores = {kind: Turns(target.seed, f"{family}-{kind}") for kind in kinds}
    splits = {}
    for folder in folders:
        for ref, region in _regions(folder, target.pictures, inputs):
            for kind, split, turn in chain(*inputs.parsed(_turns, folder.name, ref, region)):
                if kind in stores:
                    stores[kind].add(split, turn)
                    splits[split] = True
    written = []
    for kind, store in stores.items():
        out = outs[kind]
        out.train(merged(out.task, store.conversations("train"), at_most=most_turns), inputs)
        for split in sorted(splits.keys() - {"train"}):
            out.held_out(split, store.drawn(split))
        options = {
            "images": target.pictures.within,
            "most_turns": most_turns,
            "sets": [f.name for f in folders],
        }
        written.append(out.finish("refcoco", target.seed, inputs, **options))
    return written


def _regions(folder: Path, pictures: Pictures, inputs: Inputs) -> Iterator[tuple[Record, _Region]]:
    """Each ref with the box and the picture that it is about."""
    refs_file, instances = folder / _SETS[folder.name].refs, folder / "instances.json"
    there(refs_file, needed=True)
    there(instances, needed=True)
    refs = read_refs(refs_file, inputs)
    wanted = {ref.fields.get("ann_id") for ref in refs if type(ref.fields.get("ann_id")) is int}
    images: dict[int, Record] = {}
    annotations: dict[int, Record] = {}
    for name, record in read_lists(instances, inputs, ("images", "annotations")):
        id = whole(record, "id")
        if name == "images":
            images[id] = _less(record, "file_name", "width", "height")
        elif id in wanted:
            annotations[id] = _less(record, "image_id", "bbox")
    for ref in refs:
        for region in inputs.parsed(_region, ref, images, annotations, pictures):
            yield ref, region


def _less(record: Record, *names: str) -> Record:
    """The record with these fields alone: outlines of objects would fill the memory."""
    return Record(record.file, record.place, {n: record.fields[n] for n in names if n in record.fields})


def _region(
    ref: Record, images: dict[int, Record], annotations: dict[int, Record], pictures: Pictures
) -> _Region:
    annotation, image = annotations.get(whole(ref, "ann_id")), images.get(whole(ref, "image_id"))
    if annotation is None:
        raise ref.error("ann_id", "the id of an annotation in instances.json")
    if image is None or annotation.fields.get("image_id") != ref.fields["image_id"]:
        raise ref.error("image_id", "the id of a picture in instances.json, that of its annotation")
    box = annotation.fields.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(each) in (int, float) for each in box):
        raise annotation.error("bbox", "four numbers")
    width, height = whole(image, "width"), whole(image, "height")
    x, y, w, h = box
    try:
        text = box_text((x, y, w, h), width, height)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise annotation.error("bbox", str(error)) from error
    return _Region(text, pictures.path(image, "file_name", image.text("file_name")))


def _turns(name: str, ref: Record, region: _Region) -> list[tuple[str, str, Turn]]:
    """Kind, split and turn of what a ref says."""
    split = _SETS[name].splits.get(str(ref.fields.get("split")))
    if split is None:
        raise ref.error("split", f"one of {', '.join(_SETS[name].splits)}")
    sentences = [(whole(each, "sent_id"), filled(each, "sent")) for each in members(ref, "sentences")]
    question = f"{CAPTION_INSTRUCTION} {region.box}"
    if split == "train":
        captions = [Turn(f"{name}-{id}", region.image, question, text) for id, text in sentences]
    else:
        texts = [text for _, text in sentences]
        captions = [Turn(f"{name}-{whole(ref, 'ref_id')}", region.image, question, texts)]
    boxes = [
        Turn(f"{name}-{id}", region.image, f"{BBOX_INSTRUCTION} {text}", region.box) for id, text in sentences
    ]
    return [("caption", split, turn) for turn in captions] + [("bbox", split, turn) for turn in boxes]
