"""Python functions in the place of commands: `python:package.module:function name=value ...`.

The worker calls `function(report, name="value", ...)` in its own process, which stays alive: what it has
imported need not be imported again for the next run. `report` takes the samples or items done.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cotbal.runs import processes
from cotbal.runs.processes import CommandError
from cotbal.runs.worker import load_function

PREFIX = "python:"


def is_function(command: str) -> bool:
    """Whether the command is a function to be called and not for the shell."""
    return command.startswith(PREFIX)


def check_function(command: str) -> str:
    """The command itself.

    Raises:
        ValueError: it is a function, but not of the form `python:package.module:function name=value ...`.
    """
    if is_function(command):
        _parts(command)
    return command


def call(command: str, run: Path, cwd: Path, report: Callable[[int], None]) -> None:
    """Calls the function; whatever it has started ends with it.

    Args:
        command: with its values.
        run: the run's folder.
        cwd: where it runs; modules there are found.
        report: is given to the function.

    Raises:
        CommandError: there is no such function.
    """
    print(f"$ {command}", flush=True)
    name, values = _parts(command)
    os.chdir(cwd)
    if str(cwd) not in sys.path:
        sys.path.insert(0, str(cwd))
    # For what it starts: this process has it only in its environment of now, by which it is not found.
    os.environ[processes.MARK] = str(run.resolve())
    try:
        function = load_function(name)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"expected a function {name}, installed or in {cwd}, got {error!r}") from error
    try:
        function(report, **values)
    finally:
        processes.end(run)
        del os.environ[processes.MARK]


def _parts(command: str) -> tuple[str, dict[str, str]]:
    try:
        name, *words = shlex.split(command.removeprefix(PREFIX)) or [""]
    except ValueError as error:
        raise ValueError(f"expected quotes that close, got {error}") from error
    module, colon, function = name.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError(f"expected {PREFIX}package.module:function, got {name!r}")
    pairs = [word.partition("=") for word in words]
    for (key, equals, _), word in zip(pairs, words, strict=True):
        if not (equals and key.isidentifier()):
            raise ValueError(f"{PREFIX}{name}: expected name=value, got {word!r}")
    if repeated := [key for key, count in Counter(key for key, _, _ in pairs).items() if count > 1]:
        raise ValueError(f"{PREFIX}{name}: {repeated[0]} stands twice; keep one")
    return name, {key: value for key, _, value in pairs}
