"""The whole demo as one call: the runs, the estimate, the results on disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cotbal.demo.pipeline import Demo
from cotbal.demo.results import assemble, write_results
from cotbal.runs.pool import Listener, run_plan
from cotbal.runs.store import Record, Store, locked
from cotbal.runs.worker_process import default_workers


def run_demo(
    demo: Demo,
    out: Path,
    listener: Callable[[], AbstractContextManager[Listener]],
    *,
    workers: int | None = None,
    command: str = "",
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Runs what `out` does not hold yet; returns the results and the files written, by name.

    A kill at any moment loses the running runs only; the same call then continues.

    Args:
        demo: what to run.
        out: the folder for runs and results.
        listener: opens the view on the progress.
        workers: number of worker processes; None: `default_workers()`.
        command: the command line, kept in the results.

    Raises:
        OutputInUseError: another process works in `out`.
        RunError: a run failed.
        ValueError: the scores do not allow an estimate.
        OSError: the disk cannot take a file.
    """
    workers = default_workers() if workers is None else workers
    with locked(out, "choose another folder with --out"):
        with listener() as progress:
            records = run_plan(demo.plan(), Store(out), progress, workers)
        results = assemble(demo, records, workers=workers, command=command)
        return results, write_results(demo, records, results, out)


def headline(record: Record) -> str:
    """The most important of a finished run: its score on every task, else its loss."""
    scores = record.result.get("scores")
    if scores is None:
        return f"loss {record.result['loss']:.3f}"
    return ", ".join(f"{task} {value:.2f}" for task, metrics in scores.items() for value in metrics.values())
