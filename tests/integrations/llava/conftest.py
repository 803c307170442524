"""One tiny world for all these tests; they are not collected where LLaVA is not installed."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from tests.integrations.llava.world import World

# LLaVA pins an environment of its own: `make test` runs this folder there.
collect_ignore_glob = [] if importlib.util.find_spec("llava") else ["test_*.py"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> "World":
    from tests.integrations.llava.world import World, make_world

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "llava_world"
    logging.getLogger("filelock").setLevel(logging.WARNING)
    with FileLock(f"{folder}.lock"):
        return World(folder) if folder.exists() else make_world(folder)


@pytest.fixture(scope="session")
def tasks(world: "World") -> list[str]:
    """The task of each record."""
    return [record["task"] for record in json.loads(Path(world.data).read_text())]
