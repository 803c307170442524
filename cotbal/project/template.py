"""Command templates: which placeholders there are, and commands with their values."""

from __future__ import annotations

import shlex
import string
from collections.abc import Collection, Mapping
from difflib import get_close_matches

TRAIN = {
    "data": "the training data of this run, written when it starts: all its tasks, each record with its task",
    "output": "the folder that the model goes to",
    "base_model": "as in the file",
    "weights": "a JSON file with the weight of every task, all 1 in the runs of the estimate; or with a rule",
    "seed": "the seed",
    "epochs": "as in the file",
    "steps": "optimizer steps; needs train.batch_size",
    "samples": "the number of training samples",
    "gpus": "GPUs per run",
    "port": "a free port, for launchers of which several run on one machine",
    "run": "the name of the run",
}
EVALUATE = {
    "model": "the folder that the training wrote",
    "scores": 'the file to write: {"score": number, "items": [a number per item]}; items may be left out, '
    '"clusters" may say by a whole number per item which belong together',
    "output": "a folder for predictions",
    "task": "the task",
    "metric": "the task's metric",
    "data": "the task's validation file, for a final model its test file",
    "base_model": "as in the file",
    "seed": "the seed",
    "gpus": "GPUs per run",
    "port": "a free port",
    "run": "the name of the trained run",
}
# Known only when the command starts; the others are part of what a run is.
LATE = frozenset({"data", "output", "weights", "port", "model", "scores"})


def check_template(template: str, known: Mapping[str, str], required: Collection[str]) -> str:
    """The template itself.

    Raises:
        ValueError: a placeholder that does not exist, one that is missing, or braces that do not close.
    """
    used = placeholders(template)
    for name in used:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {{{close[0]}}}? " if close else ""
            raise ValueError(
                f"unknown placeholder {{{name}}}; {hint}There are {', '.join(known)}; a brace itself is {{{{"
            )
    for name in required:
        if name not in used:
            raise ValueError(f"expected the placeholder {{{name}}}: {known[name]}")
    return template


def placeholders(template: str) -> list[str]:
    """The names in braces, in order."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"expected {{placeholders}} and doubled braces, got {error}") from error
    found = []
    for _, name, spec, conversion in parts:
        if name is not None:
            found.append(name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else ""))
    return found


def fill(template: str, values: Mapping[str, object], keep: Collection[str] = ()) -> str:
    """The command with its values, quoted for the shell.

    Args:
        template: a checked template.
        values: by placeholder.
        keep: placeholders that stay; the result is then a template again.
    """
    command = ""
    for text, name, _, _ in string.Formatter().parse(template):
        command += text.replace("{", "{{").replace("}", "}}") if keep else text
        if name is not None:
            command += f"{{{name}}}" if name in keep else _quote(str(values[name]), bool(keep))
    return command


def _quote(value: str, again: bool) -> str:
    quoted = shlex.quote(value)
    return quoted.replace("{", "{{").replace("}", "}}") if again else quoted
