"""`cotbal demo`: all of Algorithm 1 on real handwritten digits."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cotbal.demo.pipeline import Demo

FULL_SEEDS = 3
NEEDED = ("transformers", "sklearn", "safetensors", "matplotlib", "jinja2")


class Device(str, Enum):
    """Where the models train."""

    CPU = "cpu"
    CUDA = "cuda"


def demo(
    full: bool = typer.Option(False, "--full", help="Three seeds, TLA and the weight ablations."),
    profile: str | None = typer.Option(None, help="quick (the default), full (that of --full) or micro."),
    seed: int = typer.Option(0, min=0, help="The seed; with --full the first of three."),
    workers: int | None = typer.Option(None, min=1, help="Worker processes; as many as the machine bears."),
    out: Path = typer.Option(Path("cotbal-demo"), help="The folder for runs and results."),
    device: Device = typer.Option(Device.CPU, help="Where the models train."),
    as_json: bool = typer.Option(False, "--json", help="Print results.json instead of tables."),
    page: bool = typer.Option(True, help="Draw the figures and write report.html."),
) -> None:
    """Run all of Algorithm 1 on real handwritten digits with a tiny LLaVA.

    Stopped at any moment, even by kill -9, it continues from the finished runs when started again.

    Example: cotbal demo --seed 1 --out demo-1
    """
    from rich.console import Console

    _check_installed()
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    plan = _what_to_run(full, profile, seed, device)
    with _one_line_errors(notes), _stoppable(notes):
        results, files = _run(plan, out, workers, notes)
        drawn = not page or _draw(results, out, files, notes)
    if as_json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        _print(results, files)
    if not drawn:
        raise typer.Exit(1)


def _what_to_run(full: bool, profile: str | None, seed: int, device: Device) -> Demo:
    import torch

    from cotbal.demo.pipeline import Demo
    from cotbal.demo.profiles import PROFILES

    if profile is not None and profile not in PROFILES:
        raise typer.BadParameter(
            f"expected one of {', '.join(PROFILES)}, got {profile!r}", param_hint="--profile"
        )
    if device is Device.CUDA and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no CUDA device; use --device cpu", param_hint="--device")
    if full:
        return Demo.full(profile or "full", tuple(range(seed, seed + FULL_SEEDS)), device.value)
    return Demo(profile or "quick", (seed,), device.value)


def _run(
    plan: Demo, out: Path, workers: int | None, notes: Console
) -> tuple[dict[str, Any], dict[str, Path]]:
    from cotbal.demo.run import headline, run_demo
    from cotbal.progress import progress_on

    command = f"cotbal demo {'--full ' if plan.tla else ''}--profile {plan.profile} --seed {plan.seeds[0]}"
    command += "" if plan.device == Device.CPU.value else f" --device {plan.device}"
    return run_demo(plan, out, lambda: progress_on(notes, headline), workers=workers, command=command)


def _draw(results: Mapping[str, Any], out: Path, files: dict[str, Path], notes: Console) -> bool:
    """Adds figures and page to `files`; says why where they cannot be made, as the results are safe."""
    from cotbal.report.figures import write_figures
    from cotbal.report.page import write_page

    try:
        files["report"] = write_page(results, out)
        write_figures(results, out / "figures")
        files["figures"] = out / "figures"
    except Exception as error:
        notes.print(f"error: results.json is written, but not all figures: {error!r}", markup=False)
        return False
    return True


def _print(results: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    from rich.console import Console

    from cotbal.report.tables import print_results

    print_results(results, Console())
    for name, path in files.items():
        print(f"{name:<16} {path}")


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        packages = ", ".join(missing)
        raise typer.BadParameter(f"the demo needs {packages}: pip install 'cotbal[demo]'")


@contextlib.contextmanager
def _one_line_errors(notes: Console) -> Iterator[None]:
    from cotbal.estimate.pool import RunError
    from cotbal.estimate.store import OutputInUseError

    try:
        yield
    except (OutputInUseError, RunError, ValueError, OSError) as error:
        notes.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _stoppable(notes: Console) -> Iterator[None]:
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
