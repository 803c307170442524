"""One tiny world for all these tests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.swift import IS_INSTALLED

_ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not IS_INSTALLED:
        pytest.skip("no ms-swift: make test-swift")
    from tests.integrations.swift.cases import environment
    from tests.integrations.swift.world import World

    world = World(tmp_path_factory.mktemp("swift") / "world")
    command = [sys.executable, "-m", "tests.integrations.swift.world", str(world.folder)]
    subprocess.run(command, cwd=_ROOT, env=environment(world), check=True)
    return world
