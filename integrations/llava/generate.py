"""`python -m cotbal.integrations.llava.generate`: LLaVA's own generation over held-out questions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from cotbal._ending import ends
from cotbal.integrations.answering.command import exit_code, generate, parser_of
from cotbal.integrations.answering.questions import Batch, Question
from cotbal.integrations.llava.versions import llava_package

if TYPE_CHECKING:
    import torch

    from cotbal.integrations.llava.generation import Asked, Checkpoint, Prompts

_DESCRIPTION = """\
A LLaVA checkpoint's greedy answers to held-out questions, by LLaVA's own loader, conversation template, image
processing and generation, in batches. Start it again after anything: only what is missing is generated.
"""
_EXAMPLES = """\
examples:
  python -m cotbal.integrations.llava.generate --model checkpoints/llava-v1.5-7b-cotbal \\
      --questions mixture/validation/VQAv2.jsonl --image-folder images --out answers/VQAv2.jsonl
  cotbal score --questions mixture/validation/VQAv2.jsonl --predictions answers/VQAv2.jsonl

  # on 8 GPUs; or once with --shard 0/8, once with --shard 1/8, ... on any machines that share the folder
  torchrun --nproc_per_node 8 -m cotbal.integrations.llava.generate --model ... --questions ... --out ...

A question is a line {"question_id", "text", "image"?, "task"?}, an answer {"question_id", "text"}. A LoRA is
put on the model that its folder names, or on --base. Exit code 2: something given cannot be right.
"""


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of this command line; None: the process's own."""
    return exit_code(_parser(), _run, words)


def _run(options: argparse.Namespace) -> None:
    # torch takes seconds to import, and the words are told without it.
    from cotbal.integrations.llava.entry import choose_attention

    attention, _ = choose_attention(options.attention)
    package = llava_package(options.module)
    settings = {
        "base": options.base,
        "conv_mode": options.conv_mode,
        "attention": attention,
        "package": package.__name__,
        "transformers": version("transformers"),
    }

    def load(device: torch.device) -> _Answerer:
        from cotbal.integrations.llava.generation import load_checkpoint

        flash = attention == "flash_attention_2"
        checkpoint = load_checkpoint(package, options.model, options.base, device, flash)
        return _Answerer(package, checkpoint, options.conv_mode)

    generate(options, settings, load)


class _Answerer(NamedTuple):
    """LLaVA's own prompts and generation."""

    package: ModuleType
    checkpoint: Checkpoint
    template: str

    def prompts(
        self, questions: Sequence[Question], batches: Sequence[Batch], wanted: Sequence[int], folder: Path
    ) -> Prompts:
        from cotbal.integrations.llava.generation import Prompts

        return Prompts(self.package, self.checkpoint, questions, batches, wanted, folder, self.template)

    def answer(self, asked: Asked, most: int) -> tuple[list[str], int]:
        from cotbal.integrations.llava.generation import answer

        return answer(self.checkpoint, asked, most)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m cotbal.integrations.llava.generate", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    add(
        "--base",
        metavar="MODEL",
        help="for a LoRA or a projector alone (default: the model that the LoRA names)",
    )
    add(
        "--conv-mode", default="v1", help="LLaVA's conversation template; v1, as --version v1 of the training"
    )
    add("--attention", choices=["auto", "flash_attention_2", "sdpa"], default="auto", help="as in training")
    add("--module", default="llava", metavar="NAME", help="a fork's package")
    return parser


if __name__ == "__main__":
    ends(main)
