"""Reading one run's files as `collect` does."""

from pathlib import Path

from cotbal.collect.formats import reader
from cotbal.collect.found import Found
from cotbal.collect.source import parse_source
from tests.collect.publishers import Item

ITEMS = [
    Item(7, "a.jpg", "red", "red"),
    Item(8, "a.jpg", "two", "three"),
    Item(9, "b.jpg", "cat", "cat"),
    Item(12, "b.jpg", "yes", "yes"),
]


def read(folder: Path, text: str, run: str = "mini") -> Found:
    source = parse_source(f"vqa: {text}")
    return reader(source).read(folder, source, run)
