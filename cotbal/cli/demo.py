"""`cotbal demo`: all of Algorithm 1 on real handwritten digits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotbal.cli.stopping import stoppable

if TYPE_CHECKING:
    from rich.console import Console

    from cotbal.demo.pipeline import Demo

FULL_SEEDS = 3
# The worker processes import the first three, and only after the first minute.
NEEDED = ("transformers", "sklearn", "safetensors", "matplotlib", "jinja2")


class Device(str, Enum):
    """Where the models train."""

    CPU = "cpu"
    CUDA = "cuda"


def demo(
    full: Annotated[bool, typer.Option("--full", help="Three seeds, TLA and the weight ablations.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="quick (the default), full (that of --full) or micro.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed; with --full the first of three.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; by default as many as the machine bears.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for runs and results.")] = Path("cotbal-demo"),
    device: Annotated[Device, typer.Option(help="Where the models train.")] = Device.CPU,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, not as tables.")
    ] = False,
    page: Annotated[bool, typer.Option(help="Draw the figures and write report.html.")] = True,
) -> None:
    """Run all of Algorithm 1 on real handwritten digits with a tiny LLaVA, in a few minutes.

    Stopped at any moment, even by kill -9, it continues from the finished runs when started again.

    Example: cotbal demo --seed 1 --out demo-1
    """
    from rich.console import Console

    _check_installed()
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    plan = _what_to_run(full, profile, seed, device)
    with stoppable(notes):
        results, files = _run(plan, out, workers, notes)
        drawn = not page or _draw(results, out, files, notes)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        _print(results, files)
    if not drawn:
        raise typer.Exit(1)


def _what_to_run(full: bool, profile: str | None, seed: int, device: Device) -> Demo:
    import torch

    from cotbal.demo.pipeline import Demo
    from cotbal.demo.profiles import get_profile

    if device is Device.CUDA and not torch.cuda.is_available():
        raise ValueError("device: expected cpu, as torch sees no CUDA device, got cuda")
    name = get_profile(profile or ("full" if full else "quick")).name
    if full:
        return Demo.full(name, tuple(range(seed, seed + FULL_SEEDS)), device.value)
    return Demo(name, (seed,), device.value)


def _run(
    plan: Demo, out: Path, workers: int | None, notes: Console
) -> tuple[dict[str, Any], dict[str, Path]]:
    from cotbal.demo.run import headline, run_demo
    from cotbal.progress import progress_on
    from cotbal.runs.pool import RunError

    command = f"cotbal demo {'--full ' if plan.tla else ''}--profile {plan.profile} --seed {plan.seeds[0]}"
    command += "" if plan.device == Device.CPU.value else f" --device {plan.device}"
    try:
        return run_demo(plan, out, lambda: progress_on(notes, headline), workers=workers, command=command)
    except RunError as error:
        # Its traceback has lines of its own, unlike the one-line errors of the other verbs.
        notes.print(f"cotbal: {error}", markup=False)
        raise typer.Exit(1) from None


def _draw(results: Mapping[str, Any], out: Path, files: dict[str, Path], notes: Console) -> bool:
    """Adds figures and page to `files`; says why where they cannot be made, as the results are safe."""
    from cotbal.demo.samples import samples
    from cotbal.report.figures import write_figures
    from cotbal.report.page import write_page

    try:
        write_figures(results, out / "figures")
        files["figures"] = out / "figures"
        files["report"] = write_page(results, out, samples(results["profile"], results["seeds"][0]))
    except Exception as error:
        notes.print(f"cotbal: the results are written, but not all figures: {error!r}", markup=False)
        return False
    return True


def _print(results: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    from rich.console import Console

    from cotbal.report.tables import print_results

    print_results(results, Console())
    width = max(map(len, files))
    for name, path in files.items():
        print(f"{name:<{width}}  {path}")


def _check_installed() -> None:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
