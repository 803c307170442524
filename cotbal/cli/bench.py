"""`cotbal bench`: runs the benchmarks of the repository and prints their tables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

# By name on the command line: the module that runs it. The first five need no GPU.
SUITES = {
    "traffic": "benchmarks.traffic",
    "exactness": "benchmarks.exactness",
    "machine-code": "benchmarks.machine_code",
    "cpu": "benchmarks.linear_cpu",
    "step": "benchmarks.whole_step",
    "gpu": "benchmarks.gpu",
}
ANYWHERE = tuple(name for name in SUITES if name != "gpu")


def bench(
    suite: Annotated[
        str, typer.Argument(help=f"One of {', '.join(SUITES)}; anywhere is all that need no GPU.")
    ] = "anywhere",
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Options of that suite, after --; `-- --help` lists them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run the benchmarks: bytes moved, error against float64, machine code, CPU, a training step, a GPU.

    They are in the repository, not in the installed package: run this in a checkout.

    Example: cotbal bench traffic --json
    """
    if suite not in (*SUITES, "anywhere"):
        raise ValueError(f"suite: expected one of {', '.join((*SUITES, 'anywhere'))}, got {suite!r}")
    if suite == "anywhere" and arguments:
        raise ValueError("arguments: expected with one suite, got them with all; name the suite")
    root = _checkout()
    names = ANYWHERE if suite == "anywhere" else (suite,)
    found: dict[str, Any] = {}
    for name in names:
        output = _run(SUITES[name], root, arguments or [], as_json)
        if as_json:
            found[name] = _json_in(output, name)
    if as_json:
        typer.echo(json.dumps(found, indent=1))


def _json_in(output: str, suite: str) -> Any:
    """What a suite prints as JSON, behind what its rivals print."""
    _, mark, content = output.partition("{\n")
    if not mark:
        raise ValueError(f"--json: expected JSON of {suite}, got {output[-200:]!r}; leave --json out")
    return json.loads(mark + content)


def _checkout() -> Path:
    """The repository that this package runs from, or the one that the user is in."""
    for folder in (Path(__file__).parents[2], Path.cwd()):
        if (folder / "benchmarks" / "providers.py").exists():
            return folder
    raise ValueError(
        "bench: expected a checkout of the repository, for the benchmarks are not in the installed package; "
        "clone it, change into it and run `cotbal bench` there"
    )


def _run(module: str, root: Path, arguments: list[str], as_json: bool) -> str:
    """The output of a suite; without --json it goes straight to the terminal."""
    command = [sys.executable, "-m", module, *arguments, *(["--json"] if as_json else [])]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE if as_json else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""
