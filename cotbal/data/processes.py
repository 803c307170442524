"""Processes that work beside this one, and end with it: where one is killed, that is an error and no wait."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any


@contextmanager
def processes(workers: int, start: Callable[..., None], *settings: Any) -> Iterator[ProcessPoolExecutor]:
    """So many processes.

    Args:
        workers: how many.
        start: what each calls first.
        *settings: what it is given.

    Raises:
        ValueError: one was killed.
    """
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), _start, (start, settings)) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise ValueError(
            f"--workers: expected {workers} processes to last, one was killed; is there memory for them? "
            "Try fewer"
        ) from error


def _start(start: Callable[..., None], settings: tuple[Any, ...]) -> None:
    if (parent := parent_process()) is not None:
        # A killed parent would leave its processes waiting for work for ever.
        Thread(target=_end_with, args=(parent,), daemon=True).start()
        # Ctrl-C reaches all of them, and one that it ends amid a message leaves the others waiting for ever:
        # the parent ends them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    start(*settings)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
