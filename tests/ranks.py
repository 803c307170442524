"""Processes of a gloo group that run what a test sends them: started once, used by many tests."""

import gc
import pickle
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# What the ranks of a trainer import.
TRAINER = ("tests.conftest", "tests.integrations.huggingface.training")

# A rank that never comes is an error of the others, soon; one that never answers, of the test.
_TIMEOUT_SECONDS = 60
_ANSWER_SECONDS = 150


class Ranks:
    """K processes in a process group.

    They are forked from one process that has imported the modules of `preload`, which saves each of them
    seconds of imports; the first choice counts for all.
    """

    def __init__(self, n_ranks: int, folder: Path, preload: Sequence[str] = ("tests.conftest",)) -> None:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(list(preload))
        self.connections, self.processes = [], []
        for rank in range(n_ranks):
            ours, theirs = context.Pipe()
            arguments = (rank, n_ranks, f"file://{folder}/group_of_{n_ranks}", theirs)
            self.processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.connections.append(ours)
        for process in self.processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: list[Any]) -> list[Any]:
        """Runs `function` on each rank with its element of the arguments; results by rank, or its ValueError.

        Fails where a rank raised what is not a ValueError, as the others may wait for it in vain, or hangs.
        """
        for rank, connection in enumerate(self.connections):
            connection.send_bytes(pickle.dumps((function, [each[rank] for each in arguments])))
        results = [pickle.loads(_answer(connection)) for connection in self.connections]
        wrong = [result for result in results if isinstance(result, str)]
        assert not wrong, "\n".join(wrong)
        return results

    def stop(self) -> None:
        for connection, process in zip(self.connections, self.processes, strict=True):
            connection.close()
            process.join(10)
            if process.is_alive():
                process.kill()


def _answer(connection: Connection) -> bytes:
    assert connection.poll(_ANSWER_SECONDS), f"a rank has not answered for {_ANSWER_SECONDS} s"
    return connection.recv_bytes()


def _serve(rank: int, n_ranks: int, init_method: str, connection: Connection) -> None:
    # What conftest does for the tests themselves.
    import tests.conftest  # noqa: F401

    dist.init_process_group(
        "gloo",
        init_method=init_method,
        rank=rank,
        world_size=n_ranks,
        timeout=timedelta(seconds=_TIMEOUT_SECONDS),
    )
    while True:
        try:
            function, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        # What was imported for it is never garbage, and each training would look through it.
        gc.freeze()
        connection.send_bytes(pickle.dumps(_result(function, arguments)))
    if dist.is_initialized():
        dist.destroy_process_group()


def _result(function: Callable[..., Any], arguments: list[Any]) -> Any:
    torch.manual_seed(0)
    try:
        return function(*arguments)
    except ValueError as error:
        return error
    except Exception:
        return traceback.format_exc()
