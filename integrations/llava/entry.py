"""From the command line to LLaVA's `train()`: patched, with its data checked before any model is loaded."""

import importlib
import importlib.util
import inspect
import json
import os
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from types import ModuleType
from typing import Any

import torch

from cotbal.balancing import Weighting, as_weighting, by_name
from cotbal.integrations.llava import patch_llava
from cotbal.integrations.llava.command_line import parse, read_tasks
from cotbal.integrations.llava.versions import check_names, llava_package
from cotbal.integrations.telling import data_in_words, refuse

_ATTENTION = "attn_implementation"


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 after a training, 2 where something that it was given cannot be right.

    Args:
        words: the command line; None: the process's own.
    """
    options, arguments = parse(sys.argv[1:] if words is None else words)
    try:
        train = prepare(options, arguments)
    except OSError as error:
        # A library that does not fit this torch, as torchaudio's, has no file.
        return refuse(error if error.filename else f"expected a file that can be read, got {error}")
    except ModuleNotFoundError as error:
        return refuse(f"{error}; {options.module}'s training code needs it: install {error.name}")
    except (ImportError, TypeError, ValueError) as error:
        return refuse(error)
    train()
    return 0


def prepare(options: Namespace, arguments: list[str]) -> Callable[[], None]:
    """LLaVA's `train()`, patched, on its own arguments; nothing of a model was loaded by then.

    Args:
        options: ours, of `command_line.parse`.
        arguments: LLaVA's own; `sys.argv` is made of them.

    Raises:
        ImportError: no LLaVA, or versions that do not fit.
        OSError: a file that cannot be read.
        TypeError: a weight or a task of a wrong kind.
        ValueError: weights, tasks or data that cannot be right.
    """
    # First: LLaVA cannot even be imported beside a flash-attn of another torch.
    attention, reason = choose_attention(options.attention)
    tasks = read_tasks(options.tasks)
    weighting = _weighting(options, tasks)
    package = llava_package(options.module)
    module = importlib.import_module(f"{package.__name__}.train.train")
    check_names(module, ("DataArguments", "TrainingArguments", "train"))
    takes = _ATTENTION in inspect.signature(module.train).parameters
    if not (takes or _has_option(module)):
        attention, reason = _own_attention(options.attention, module.__name__)
    patch = patch_llava(
        package, weighting=weighting, tasks=tasks, level=options.level, denominator=options.denominator
    )
    if os.environ.get("RANK", "0") == "0":
        try:
            check_data(module, arguments)
        except BaseException:
            patch.restore()
            raise
        print(f"cotbal: {data_in_words(patch.records.counts, patch.records.tasks, weighting)}", flush=True)
        print(f"cotbal: attention {attention} ({reason})", flush=True)
    sys.argv[1:] = _with_attention(module, arguments, attention)
    return partial(module.train, attn_implementation=attention) if takes else module.train


def choose_attention(asked: str) -> tuple[str, str]:
    """The attention to train with, and why.

    Args:
        asked: "auto", or the one to take.

    Raises:
        ImportError: flash-attn is installed for a CUDA device and cannot be imported.
    """
    has_cuda = torch.cuda.is_available()
    has_flash = importlib.util.find_spec("flash_attn") is not None
    if has_cuda and has_flash:
        try:
            importlib.import_module("flash_attn")
        except ImportError as error:
            raise ImportError(
                f"flash_attn: expected one built for torch {torch.__version__}, got one that cannot be "
                f"imported ({error}); uninstall it to train with sdpa, or build it again: "
                "pip install --force-reinstall --no-deps --no-build-isolation flash-attn"
            ) from error
    if asked != "auto":
        return asked, "asked for"
    if not has_cuda:
        return "sdpa", "no CUDA device"
    return ("flash_attention_2", "flash-attn is installed") if has_flash else ("sdpa", "no flash-attn")


def check_data(module: ModuleType, arguments: Sequence[str]) -> None:
    """Reads the data as LLaVA's own dataset will, whose records the patch then looks up in the weights.

    Args:
        module: `llava.train.train`, patched.
        arguments: LLaVA's own.

    Raises:
        OSError: a data file cannot be read.
        ValueError: no data, or records whose task has no weight.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(module.DataArguments, allow_abbrev=False)
    data_args, *_ = parser.parse_args_into_dataclasses(list(arguments), return_remaining_strings=True)
    if data_args.data_path is None:
        raise ValueError("--data_path: expected LLaVA's data file after --, got none")
    # LLaVA-NeXT draws samples while it reads; the training's own draw stays what it was.
    state = random.getstate()
    try:
        module.LazySupervisedDataset(data_path=data_args.data_path, tokenizer=None, data_args=data_args)
    except json.JSONDecodeError as error:
        raise ValueError(f"--data_path: {data_args.data_path} is not JSON: {error}") from error
    finally:
        random.setstate(state)


def _weighting(options: Namespace, tasks: Any) -> Weighting | None:
    if options.rule is not None:
        return by_name(options.rule, **options.rule_options)
    if options.rule_options:
        raise ValueError("--rule-options: expected --rule beside it, got none")
    chosen = options.weights or os.environ.get("COTBAL_WEIGHTS") or None
    names = tasks if isinstance(tasks, list) else None
    return None if chosen is None else as_weighting(chosen, names)


def _has_option(module: ModuleType) -> bool:
    return any(field.name == _ATTENTION for field in fields(module.TrainingArguments))


def _own_attention(asked: str, name: str) -> tuple[str, str]:
    if asked != "auto":
        raise ValueError(f"--attention: expected auto with {name}, whose train() takes none, got {asked}")
    return "of its own", f"{name}'s train() takes none"


def _with_attention(module: ModuleType, arguments: list[str], attention: str) -> list[str]:
    """LLaVA-NeXT takes its attention from its own arguments, and takes no notice of train()'s."""
    is_given = any(word.split("=")[0] == f"--{_ATTENTION}" for word in arguments)
    return [*arguments, f"--{_ATTENTION}", attention] if _has_option(module) and not is_given else arguments
