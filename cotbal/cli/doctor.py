"""`cotbal doctor`: versions and devices, a model's level, one batch with its own loss and with ours."""

import json
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.doctor import Comparison, Package


def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A model's folder or its config.json (random weights, 2 layers); none: a tiny Llama."
        ),
    ] = None,
    level: Annotated[str, typer.Option(help="Where the loss is computed: auto, linear or logits.")] = "auto",
    batch: Annotated[
        Path | None,
        typer.Option(
            help="A training batch, as cotbal.doctor.save_batch(collator(records), FILE) writes it; none: "
            "random text."
        ),
    ] = None,
    deepspeed: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Check under DeepSpeed's engine with this configuration."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say whether cotbal is right here: versions, the level that fits a model, one batch with and without it.

    The exit code is 1 where a version is too old, the losses differ, or a killed compilation left its lock.

    Example: cotbal doctor checkpoints/llava-1.5-7b-hf --batch batch.safetensors
    """
    from cotbal.doctor import devices, packages
    from cotbal.doctor.compare import SMALL_LOSS
    from cotbal.doctor.locks import abandoned_locks
    from cotbal.files import finite_or_null

    found, machine = packages(), devices()
    if not as_json:
        _print_packages(found, machine)
    # DeepSpeed logs to what stdout is when it is first imported.
    with redirect_stdout(sys.stderr):
        compared = _compare(model, batch, level, deepspeed)
    problems = [f"{each.name}: {each.problem}" for each in found if each.problem] + abandoned_locks()
    own = compared.passes[0].loss
    if not math.isfinite(own):
        problems.append(f"the model's own loss is {own}: look at its weights, or give another --batch")
    elif not compared.agrees and own < SMALL_LOSS:
        problems.append(
            f"the model's own loss is {own:.1e}, so near 0 that it is torch's rounding that differs: give "
            "another --batch, of which the model is less sure"
        )
    elif not compared.agrees:
        problems.append(f"loss or gradients differ by more than {compared.tolerance:g}; please report this")
    if as_json:
        summary = finite_or_null(_summary(found, machine, compared, problems))
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print_comparison(compared)
        typer.echo("\n".join(problems) or "All is well.")
    if problems:
        raise typer.Exit(1)


def _compare(model: Path | None, batch: Path | None, level: str, deepspeed: Path | None) -> "Comparison":
    import torch

    from cotbal.doctor import compare, load_batch, load_model, random_batch
    from cotbal.doctor.engine import compare_under_deepspeed

    if deepspeed is not None:
        return compare_under_deepspeed(deepspeed, model, batch, level)
    loaded = load_model(model).to("cuda" if torch.cuda.is_available() else "cpu")
    return compare(loaded, random_batch(loaded) if batch is None else load_batch(batch), level)


def _summary(
    found: list["Package"], machine: list[str], compared: "Comparison", problems: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "packages": {each.name: asdict(each) for each in found},
        "devices": machine,
        "comparison": compared.to_json(),
        "problems": problems,
    }


def _print_packages(found: list["Package"], machine: list[str]) -> None:
    from cotbal.report.tables import print_columns

    columns = {
        "installed": [each.installed or "-" for each in found],
        "needed": [f">= {each.least}" if each.least else "any" for each in found],
        "state": ["too old" if each.problem else "ok" if each.installed else "absent" for each in found],
    }
    print_columns("Versions", [each.name for each in found], columns, corner="package")
    typer.echo("".join(f"Device: {each}.\n" for each in machine))


def _print_comparison(compared: "Comparison") -> None:
    from cotbal.report.tables import print_columns

    def error(value: float | None) -> str:
        return "-" if value is None else f"{value:.1e}"

    typer.echo(f"Level: {compared.level} ({compared.reason}).\n")
    passes = compared.passes
    columns = {
        "loss": [f"{each.loss:.6f}" for each in passes],
        "error": [error(each.loss_error) for each in passes],
        "gradient": [f"{each.gradient_norm:.6f}" for each in passes],
        "error ": [error(each.gradient_error) for each in passes],
        "ms": [f"{each.milliseconds:.1f}" for each in passes],
        "peak MiB": [f"{each.peak_mib:.1f}" for each in passes],
    }
    title = "One batch, forward and backward"
    print_columns(title, [each.name for each in passes], columns, corner="loss")
