"""The tiny world, once for each process of the tests."""

from pathlib import Path

import pytest

from tests.integrations.llamafactory.runs import run


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    result = run(["-m", "tests.integrations.llamafactory.world", str(folder)], folder)
    assert result.returncode == 0, result.stderr
    return folder
