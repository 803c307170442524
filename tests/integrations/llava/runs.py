"""Starts the ranks of a group of cases and reads what they recorded."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.integrations.llava.cases import Case
from tests.integrations.llava.recorder import Recording
from tests.ports import free_port

_ROOT = Path(__file__).parents[3]
_TIMEOUT_SECONDS = 500


def run_cases(
    world: Any,
    folder: Path,
    cases: Sequence[Case],
    n_ranks: int = 1,
    launcher: str = "tests.integrations.llava.launch",
) -> dict[str, list[Recording]]:
    """Each case's recordings by rank; all cases run in the same processes, which saves imports."""
    folder.mkdir(parents=True)
    torch.save((world, list(cases)), folder / "cases.pt")
    port = free_port()
    ranks = [_start(launcher, folder, rank, n_ranks, port) for rank in range(n_ranks)]
    try:
        codes = [rank.wait(_TIMEOUT_SECONDS) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert not any(codes), "\n".join((folder / f"log{rank}").read_text()[-3000:] for rank in range(n_ranks))
    return {
        case.name: [
            torch.load(folder / case.name / f"rank{rank}.pt", weights_only=False) for rank in range(n_ranks)
        ]
        for case in cases
    }


def _start(launcher: str, folder: Path, rank: int, n_ranks: int, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    if n_ranks > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    with (folder / f"log{rank}").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", launcher, str(folder)],
            cwd=_ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
