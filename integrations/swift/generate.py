"""`python -m cotbal.integrations.swift.generate`: answers by the template that ms-swift trained with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cotbal._ending import ends
from cotbal.integrations.answering.command import exit_code, generate, parser_of
from cotbal.integrations.swift.checkpoints import trained_checkpoint

if TYPE_CHECKING:
    import torch

_DESCRIPTION = """\
The greedy answers of a model that ms-swift trained, full or LoRA, to held-out questions, by the template and
system message of its training, in batches. Start it again after anything: only what is missing is generated.
"""
_EXAMPLES = """\
examples:
  python -m cotbal.integrations.swift.generate --model output/vqa \\
      --questions mixture/validation/VQAv2.jsonl --image-folder images --out answers/VQAv2.jsonl
  cotbal score --questions mixture/validation/VQAv2.jsonl --predictions answers/VQAv2.jsonl

  # on 8 GPUs; or once with --shard 0/8, once with --shard 1/8, ... on any machines that share the folder
  torchrun --nproc_per_node 8 -m cotbal.integrations.swift.generate --model ... --questions ... --out ...

--model is a checkpoint, or the --output_dir of a training. A question is a line {"question_id", "text",
"image"?, "task"?}, an answer {"question_id", "text"}. A picture comes first, and then a new line, as in
LLaVA's records. Exit code 2: something given cannot be right.
"""


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of this command line; None: the process's own."""
    return exit_code(_parser(), _run, words)


def _run(options: argparse.Namespace) -> None:
    # torch takes seconds to import, and the words are told without it.
    from cotbal.integrations.swift.plugging import installed_version

    settings = {
        "base": options.base,
        "ms-swift": installed_version(),
        "transformers": version("transformers"),
    }
    checkpoint = trained_checkpoint(options.model)
    options.model = str(checkpoint)

    def load(_: torch.device) -> Any:
        from cotbal.integrations.swift.chat import load_chat

        return load_chat(checkpoint, options.base, batch_size=options.batch_size)

    generate(options, settings, load)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m cotbal.integrations.swift.generate", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--base", metavar="MODEL", help="for a LoRA (default: the model that it was trained on)"
    )
    return parser


if __name__ == "__main__":
    ends(main)
