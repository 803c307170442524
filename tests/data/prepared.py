"""The paper's tasks, small: their publishers' files, prepared. Pictures are in one folder's coco, gqa, ..."""

from pathlib import Path

from cotbal.data.chartqa import prepare_chartqa
from cotbal.data.gqa import prepare_gqa
from cotbal.data.ocrvqa import prepare_ocrvqa
from cotbal.data.refcoco import prepare_refcoco
from cotbal.data.sharegpt import prepare_sharegpt
from cotbal.data.sharegpt4v import prepare_sharegpt4v
from cotbal.data.vqav2 import prepare_vqav2
from tests.data import publishers
from tests.data.reading import inputs, target

COLOURS = ("red", "green", "blue", "white")
SPLITS = {"train": 12, "val": 5, "test": 4}


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def everything(sources: Path, out: Path) -> None:
    """Writes the files of all eight tasks into `sources` and prepares each into `out`."""
    for write in (_vqav2, _gqa, _chartqa, _ocrvqa, _refcoco, _sharegpt4v, _sharegpt):
        write(sources, out)


def _vqav2(sources: Path, out: Path) -> None:
    for split, name in (("train", "train2014"), ("val", "val2014"), ("test", "test-dev2015")):
        start = {"train": 0, "val": 100, "test": 200}[split]
        questions = [
            ((start + n) * 1000 + k, start + n, f"What color is thing {k}?", colour(n + k))
            for n in range(SPLITS[split])
            for k in range(2)
        ]
        publishers.vqav2(sources / "vqav2", name, questions)
    prepare_vqav2(sources / "vqav2", target(out, "coco"), inputs())


def _gqa(sources: Path, out: Path) -> None:
    for split, name in (("train", "train"), ("val", "val"), ("test", "testdev")):
        questions = [
            (f"{split}{n}", f"{split}{n}", f"Is the wall {colour(n)}?", "no" if n % 3 else "yes")
            for n in range(SPLITS[split])
        ]
        publishers.gqa(sources / "gqa", name, questions)
    prepare_gqa(sources / "gqa", target(out, "gqa"), inputs())


def _chartqa(sources: Path, out: Path) -> None:
    for split, size in SPLITS.items():
        human = [(f"h{n}.png", f"What is the value of bar {n}?", f"{n}.5") for n in range(size)]
        publishers.chartqa(sources / "chartqa", split, human, [("a.png", "How many bars?", "4")])
    prepare_chartqa(sources / "chartqa", target(out, "chartqa"), inputs())


def _ocrvqa(sources: Path, out: Path) -> None:
    books = {
        f"{number}{n:05d}": (
            number,
            [("Who wrote this book?", f"Author {n}"), ("What is the title?", f"Book {n}")],
        )
        for number, size in enumerate(SPLITS.values(), start=1)
        for n in range(size)
    }
    publishers.ocrvqa(sources / "dataset.json", books)
    prepare_ocrvqa(sources / "dataset.json", target(out, "ocr"), inputs())


def _refcoco(sources: Path, out: Path) -> None:
    sizes = {image: (200, 100) if image % 2 else (100, 160) for image in range(1, 60)}
    splits = {"refcoco": ("train", "val", "testA", "testB"), "refcocog": ("train", "val", "test")}
    for start, (name, names) in zip((1, 30), splits.items(), strict=True):
        refs = []
        for n in range(SPLITS["train"] + 4 * (len(names) - 1)):
            split = "train" if n < SPLITS["train"] else names[1 + n % (len(names) - 1)]
            sentences = [(10 * n + k, f"the {colour(n + k)} thing on the left") for k in range(2)]
            refs.append(publishers.ref(n, start + n, split, sentences))
        boxes = {n: [5.0 + n, 10.0, 40.0, 30.0 + n] for n in range(len(refs))}
        publishers.refcoco(sources / name, refs, sizes, boxes)
    prepare_refcoco([sources / name for name in splits], target(out, "coco/train2014"), inputs())


def _sharegpt4v(sources: Path, out: Path) -> None:
    captions = [
        (f"sam/images/sa_{n}.jpg", f"The picture shows a {colour(n)} wall, with {n} things before it.")
        for n in range(sum(SPLITS.values()))
    ]
    path = publishers.sharegpt4v(sources / "sharegpt4v_instruct_gpt4-vision_cap100k.json", captions)
    prepare_sharegpt4v(path, target(out), inputs(), validation=SPLITS["val"], test=SPLITS["test"])


def _sharegpt(sources: Path, out: Path) -> None:
    talks = [
        [("human", f"How do I paint {n}?"), ("gpt", f"With {colour(n)}, in {n} steps.")] for n in range(8)
    ]
    path = publishers.sharegpt(sources / "ShareGPT_V3_unfiltered_cleaned_split.json", talks)
    tokenizer = str(publishers.word_tokenizer(sources / "tokenizer.json"))
    prepare_sharegpt(path, target(out), inputs(), tokenizer=tokenizer)
