from pathlib import Path

import pytest

from tests.breakage import BREAKAGES, ROOT, Breakage


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_each_breakage_still_finds_its_line(breakage: Breakage) -> None:
    """A breakage whose line is gone would only be noticed by the long run that makes them."""
    assert Path(ROOT, breakage.file).read_text().count(breakage.right) == 1
    assert breakage.wrong != breakage.right
