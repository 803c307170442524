"""The words before `--`: ours. Those after it are LLaVA's own and go on to it untouched."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotbal.balancing.registry import RULES
from cotbal.integrations.level_names import DENOMINATORS, LEVELS
from cotbal.tasks import read_file_tasks

_DESCRIPTION = """\
LLaVA's own train(), unchanged, with one weight per task in its loss. Use it in place of
llava/train/train_mem.py, alone or under deepspeed or torchrun; everything after -- is LLaVA's.
"""
_EXAMPLES = """\
examples:
  # where train_mem.py stood, on 8 GPUs; zero3.json is that of cotbal.integrations.deepspeed, not LLaVA's own
  deepspeed --module cotbal.integrations.llava --weights weights.json -- \\
      --deepspeed zero3.json --model_name_or_path liuhaotian/llava-v1.5-7b \\
      --data_path mixture/mixture.json ...
  torchrun --nproc_per_node 8 -m cotbal.integrations.llava --weights weights.json -- \\
      --model_name_or_path liuhaotian/llava-v1.5-7b --data_path mixture/mixture.json ...

  # weights.json is what `cotbal weights scores.csv` wrote, or {"VQAv2": 0.8, "caption": 1.2},
  # or [0.8, 1.2] with --tasks VQAv2 caption. A record of mixture.json tells its task itself:
  #   {"id": 1, "task": "VQAv2", "image": ..., "conversations": [...]}     (or "channel", "source")
  # or its file does:
  python -m cotbal.integrations.llava --weights weights.json --tasks vqa.json=VQAv2 cap.json=caption -- \\
      --data_path '{vqa,cap}.json' ...

  # a rule that changes the weights while it trains
  python -m cotbal.integrations.llava --rule dwa --rule-options '{"fixed": {"ShareGPT": 1.0}}' -- ...

Before LLaVA loads a model, every record's task is looked up in the weights. Exit code 2: something in
the words, the weights, the data or the installed versions is wrong; one sentence says what.
"""


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and LLaVA's own words: those after `--`, and the local rank that a launcher put first.

    Exits with code 2 and one sentence where a word is not known.
    """
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    parser = _parser()
    options, unknown = parser.parse_known_args(words[:cut])
    if unknown:
        parser.error(f"{' '.join(unknown)}: not an option of cotbal; LLaVA's own come after --")
    if cut == len(words):
        parser.error("expected LLaVA's own arguments after --, got none; --help shows an example")
    rank = [] if options.local_rank is None else [f"--local_rank={options.local_rank}"]
    return options, rank + words[cut + 1 :]


def read_tasks(words: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    """The task names, or the task of each file: from the words themselves, or from one JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: neither names nor files.

    Example:
        >>> read_tasks(["VQAv2", "GQA"]), read_tasks(["vqa.json=VQAv2"])
        (['VQAv2', 'GQA'], {'vqa.json': 'VQAv2'})
    """
    if not words:
        return None
    if len(words) == 1 and words[0].endswith(".json"):
        return _tasks_of(words[0])
    return read_file_tasks(words, "--tasks") if any("=" in word for word in words) else list(words)


def _tasks_of(path: str) -> list[str] | dict[str, str]:
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"--tasks: {path} is not JSON: {error}") from error
    if isinstance(content, list):
        return content
    if isinstance(content, Mapping):
        return dict(content)
    kind = type(content).__name__
    raise ValueError(f'--tasks: expected ["task", ...] or {{"file": "task", ...}} in {path}, got {kind}')


def _options(text: str) -> dict[str, Any]:
    try:
        options: Any = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"""expected a JSON object, as '{{"window": 10}}', got {text!r}""")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cotbal.integrations.llava",
        usage="%(prog)s [options] -- LLAVA'S OWN ARGUMENTS",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        metavar="FILE",
        help="the task weights, a JSON file (default: the file that COTBAL_WEIGHTS names, else all 1)",
    )
    weights.add_argument(
        "--rule",
        choices=[name for name in RULES if name != "static"],
        help="a rule that computes the weights of each step from the losses before it",
    )
    parser.add_argument(
        "--rule-options", metavar="JSON", type=_options, default={}, help="the rule's own options"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="task names in the order of their ids, or FILE=TASK for records that do not name theirs, or a "
        "JSON file with a list or an object of these (default: from the weights, else from the data)",
    )
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default="auto",
        help="linear never holds all logits, logits works with any head, auto: linear where it is exact",
    )
    parser.add_argument(
        "--denominator",
        choices=DENOMINATORS,
        default="step",
        help="whose tokens the loss divides by: the whole optimizer step's (Eq. 2), this micro-batch's on "
        "all ranks, this micro-batch's on this device",
    )
    parser.add_argument(
        "--attention",
        choices=["auto", "flash_attention_2", "sdpa", "eager"],
        default="auto",
        help="auto: flash_attention_2 on a CUDA device where flash-attn is installed, else sdpa",
    )
    parser.add_argument(
        "--module", default="llava", metavar="NAME", help="a fork's package with NAME.train.train"
    )
    # deepspeed puts it before our own options.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser
