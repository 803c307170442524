"""Stopping a verb that works for long."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


@contextlib.contextmanager
def stoppable(notes: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM unwind the block, which stops the workers, and end with one line."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        notes.print("stopped; the finished runs are kept, and the same command continues from them")
        code = stopped.code if isinstance(stopped, SystemExit) else 128 + signal.SIGINT
        raise typer.Exit(int(code or 0)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
