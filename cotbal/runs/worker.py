"""A worker process: reads jobs as JSON lines, runs them, answers with JSON lines.

Started by `cotbal.runs.pool` as `python -m cotbal.runs.worker`. It imports once and runs many jobs.
It ends at once when its input closes, so that none outlives a driver that was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cotbal.runs import processes
from cotbal.runs.store import LOG_FILE, Record, Store

# Seconds between two reports of steps: often enough for a progress bar, seldom enough to cost nothing.
REPORT_EVERY = 0.2

Send = Callable[[dict[str, Any]], None]


def load_function(name: str) -> Callable[..., dict[str, Any]]:
    """The function called "package.module:function".

    Raises:
        ValueError: the name is not of that form.
        ImportError, AttributeError: there is no such module or function.
    """
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise ValueError(f"function: expected 'package.module:function', got {name!r}")
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), attribute)
    return function


def run_job(job: dict[str, Any], send: Send) -> None:
    """Runs one job in its emptied folder and writes its result; `send` gets the steps as they are done.

    Args:
        job: {"out", "versions", "key", "name", "function", "settings", "context", "needs": {name: folder},
            "made_from": as of `Record`; absent in a job that an older cotbal has submitted}.
        send: takes a message.
    """
    store = Store(Path(job["out"]), job["versions"])
    folder = store.folder(job["key"])
    # A driver and its worker killed at one time leave the commands of their run behind.
    processes.end(folder)
    # NFS keeps a file that is open here: the log of this worker's last try.
    _send_output_to(Path(os.devnull))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    _send_output_to(folder / LOG_FILE)
    started, since, cpu = time.time(), time.monotonic(), time.process_time()
    function = load_function(job["function"])
    # Only now, so that nobody takes the seconds of the imports for those of the first steps.
    send({"event": "started"})
    filled_in = {name: job.get(name) for name in ("needs", "context", "made_from")}
    with _reporting(send) as report:
        result = function({**job["settings"], **filled_in}, folder, report)
    cpu_seconds = time.process_time() - cpu
    # The clock of the day may be set back meanwhile: hours below 0 would make any plan cheap.
    finished = started + time.monotonic() - since
    record = Record(job["key"], result, started, finished, cpu_seconds, job.get("made_from"))
    store.write(record, function=job["function"], settings=job["settings"], name=job["name"])


@contextlib.contextmanager
def _reporting(send: Send) -> Iterator[Callable[[int], None]]:
    """What a run tells its steps by, now and then; of a thread that it leaves behind nothing is passed on."""
    last, is_over = 0.0, False

    def report(steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if not is_over and now - last >= REPORT_EVERY:
            last = now
            send({"event": "steps", "steps": int(steps)})

    try:
        yield report
    finally:
        is_over = True


def _send_output_to(path: Path) -> None:
    """From here on whatever the process prints, from Python or below it, goes to `path`."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _listen(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    folder = None
    for line in sys.stdin:
        job = json.loads(line)
        folder = Store(Path(job["out"])).folder(job["key"])
        jobs.put(job)
    # The driver is gone or wants no more: not even a running job may outlive it, nor what it has started.
    if folder is not None:
        processes.end_for_good(folder)
    os._exit(0)


def main(preload: Sequence[str]) -> None:
    """Runs jobs until the input closes.

    Args:
        preload: modules to import before the first job, while there is nothing else to do.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    for module in preload:
        # A module that cannot be imported is reported by the first job that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    while True:
        job = jobs.get()
        try:
            run_job(job, send)
        except processes.CommandError as error:
            send({"event": "failed", "error": str(error)})
        except OSError as error:
            # A disk that is full or a file that is gone: nothing that a traceback would explain.
            send({"event": "failed", "error": f"{type(error).__name__}: {error}"})
        # Whatever the function raises, sys.exit included, belongs to the job and not to the worker.
        except BaseException:
            send({"event": "failed", "error": traceback.format_exc()})
        else:
            send({"event": "finished"})


if __name__ == "__main__":
    main(sys.argv[1:])
