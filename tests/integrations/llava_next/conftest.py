"""One tiny world for all these tests; those that need LLaVA-NeXT skip without a checkout of it."""

import os
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from tests.integrations.llava_next import CHECKOUT
from tests.integrations.llava_next.world import World

if CHECKOUT is not None:
    with warnings.catch_warnings():
        # Its sources warn when they are compiled, and a warning is an error here.
        warnings.simplefilter("ignore")
        import_module("llava.train.train")

_ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    if CHECKOUT is None:
        pytest.skip("no LLaVA-NeXT: name a checkout of its repository in COTBAL_TEST_LLAVA_NEXT")
    folder = tmp_path_factory.mktemp("next")
    command = [sys.executable, "-m", "tests.integrations.llava_next.world", str(folder)]
    subprocess.run(command, cwd=_ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True)
    return World(folder)
