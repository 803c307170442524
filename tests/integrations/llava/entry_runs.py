"""Runs `python -m cotbal.integrations.llava` as a user does: alone, under a launcher, or by its script."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.integrations.llava.cases import Case, arguments
from tests.integrations.llava.world import World
from tests.ports import free_port, torchrun

MODULE = "cotbal.integrations.llava"
# What is left to say on a machine without a GPU: the backend, and that DeepSpeed compiles no operator.
_SITE = """\
import os

if "RANK" in os.environ:
    import deepspeed
    import torch

    torch.cuda.synchronize = lambda *_: None
    deepspeed.ops.__compatible_ops__.clear()
    deepspeed.init_distributed("gloo")
"""


def run_alone(*words: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", MODULE, *words], environment)


def run_torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, *torchrun(2), "-m", MODULE, *words])


def deepspeed_environment(folder: Path) -> dict[str, str]:
    """Under which DeepSpeed's launcher trains on a CPU; `python` and `deepspeed` are this environment's."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    commands = {
        "deepspeed": f"-W ignore -m deepspeed.launcher.runner --master_port {free_port()}",
        "python": "",
    }
    for name, words in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }


def run_script(name: str, *words: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    import cotbal.integrations.llava as package

    return _run(["bash", Path(package.__path__[0]) / name, *words], environment)


def own_words(world: World, output: Path, **options: object) -> list[str]:
    """LLaVA's own arguments for one epoch in small."""
    epoch = {"max_steps": -1, "num_train_epochs": 1}
    return arguments(Case("entry", epoch | options), world, output)


def _run(
    words: Sequence[object], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    plain = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [str(word) for word in words],
        env=os.environ | plain | (environment or {}),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
