"""From the command line to LLaMA-Factory's own launcher, with its functions wrapped."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cotbal.integrations.llamafactory.options import KEYS, RefusedError, StoppedError, take_options
from cotbal.integrations.llamafactory.records import read_tasks
from cotbal.integrations.telling import refuse

_USAGE = "python -m cotbal.integrations.llamafactory train [my.yaml] [key=value ...]"
_HELP = f"""\
usage: {_USAGE}

LLaMA-Factory's own fine-tuning, each entry of dataset a task, with one weight per task in its loss. Keys
beside LLaMA-Factory's own, in the yaml or after it:

"""
_YAML = (".yaml", ".yml")

# What LLaMA-Factory takes another way by.
_OTHER_WAYS = {
    "USE_V1": "that is another trainer, which never sees the tasks; unset it",
    "USE_RAY": "Ray's workers are processes without the weights; unset it, and launch with torchrun",
}


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 after a training or the help, 1 where it was stopped, 2 where something is not right.

    Args:
        words: the command line; None: the process's own.
    """
    words = list(sys.argv[1:] if words is None else words)
    # LLaMA-Factory's launcher starts this under torchrun without it.
    words = words[1:] if words[:1] == ["train"] else words
    if words[:1] in (["-h"], ["--help"]):
        print(_HELP + "\n".join(f"  {key}\n      {says}" for key, says in KEYS.items()))
        return 0
    if not words or not (words[0].endswith(_YAML) or "=" in words[0]):
        return refuse(f"expected a yaml file or key=value, got {words[0] if words else 'none'}; {_USAGE}")
    try:
        prepare(words)()
    except FileNotFoundError as error:
        if error.filename is None or Path(error.filename) != Path(words[0]).absolute():
            raise
        return refuse(f"expected a yaml file that can be read, got {words[0]}: {error.strerror}")
    except StoppedError as error:
        refuse(error)
        return 1
    except (ImportError, RefusedError) as error:
        return refuse(error)
    return 0


def prepare(words: list[str]) -> Callable[[], Any]:
    """What trains: LLaMA-Factory's `run_exp`, or its launcher, which starts one such process for each GPU.

    Args:
        words: the yaml file and changes to its keys, or the keys alone; `sys.argv` is made of them.

    Raises:
        ImportError: no LLaMA-Factory, or one without the functions that are wrapped.
        RefusedError: keys that cannot be right.
    """
    for name, why in _OTHER_WAYS.items():
        if os.environ.get(name, "0").lower() in ("true", "y", "1"):
            raise RefusedError(f"{name}: expected it unset, got {os.environ[name]}: {why}")
    from cotbal.integrations.llamafactory.hooks import BalancedRun, theirs

    launcher, tuner = theirs("launcher", "launch"), theirs("train.tuner", "run_exp")
    sys.argv[1:] = words
    arguments = dict(tuner.read_args() if words[0].endswith(_YAML) else _keys(words))
    options = take_options(arguments)
    run = BalancedRun(options, None if options.data is None else read_tasks(options.data))
    if run.file is not None:
        if run.file.pictured and arguments.get("media_dir") is None:
            raise RefusedError("media_dir: expected the folder of the records' pictures, got none")
        arguments["dataset"] = list(run.file.tasks)
    run.install()
    if "LOCAL_RANK" in os.environ:
        return partial(run.train, partial(tuner.run_exp, arguments))
    run.replaced.set(tuner, "run_exp", partial(tuner.run_exp, arguments))
    # The file that it has torchrun start.
    run.replaced.set(launcher, "__file__", str(Path(__file__).with_name("__main__.py")))
    sys.argv[1:] = ["train", *words]
    return partial(run.train, launcher.launch)


def _keys(words: list[str]) -> Any:
    """The keys and values of the words, read as LLaMA-Factory reads those behind a yaml file."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.from_cli(words))
