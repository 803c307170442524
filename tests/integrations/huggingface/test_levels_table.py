"""The table of model classes in the README of `integrations/huggingface/` says what these tests find."""

from pathlib import Path

import pytest

from tests.integrations.huggingface.level_cases import CASES, FROM_5, each
from tests.integrations.huggingface.levels_table import HEADER, peaks, support

README = Path(__file__).parents[3] / "integrations/huggingface/README.md"

# The tiny models' peaks hang on torch's allocator and the attention that transformers chooses.
TOLERANCE = 0.15

pytestmark = pytest.mark.skipif(not FROM_5, reason="README tells what transformers 5 does")


def rows_of_readme() -> dict[str, tuple[str, ...]]:
    """The cells of each row by class."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert "| " + " | ".join(HEADER) + " |" in lines, "paste the table that levels_table.py prints"
    start = lines.index("| " + " | ".join(HEADER) + " |") + 2
    table = [line for line in lines[start : start + len(CASES)] if line.startswith("|")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    return {row[0]: row for row in rows}


def test_every_class_has_its_row() -> None:
    assert list(rows_of_readme()) == list(CASES)


@pytest.mark.parametrize("name", each())
def test_a_row_says_what_was_found(name: str) -> None:
    assert rows_of_readme()[name][:-1] == support(name)


@pytest.mark.parametrize("name", each())
def test_the_memory_is_what_was_measured(name: str) -> None:
    said, found = rows_of_readme()[name][-1].split(" / "), peaks(name)
    assert [float(peak) for peak in said] == pytest.approx(found, rel=TOLERANCE)
