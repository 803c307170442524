"""`python -m cotbal.integrations.huggingface.generate`: a chat model's answers to held-out questions."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotbal._ending import ends
from cotbal.files import json_object
from cotbal.integrations.answering.command import exit_code, generate, parser_of
from cotbal.integrations.huggingface.finetune import SETTINGS_FILE

if TYPE_CHECKING:
    import torch

    from cotbal.integrations.huggingface.chat import Chat

_DESCRIPTION = """\
The greedy answers of a Hugging Face chat model, with pictures or of text alone, to held-out questions, by its
own chat template, in batches. Start it again after anything: only what is missing is generated.
"""
_EXAMPLES = """\
examples:
  python -m cotbal.integrations.huggingface.generate --model checkpoints/qwen2.5-vl-cotbal \\
      --questions mixture/validation/VQAv2.jsonl --image-folder images --out answers/VQAv2.jsonl
  cotbal score --questions mixture/validation/VQAv2.jsonl --predictions answers/VQAv2.jsonl

  # on 8 GPUs; or once with --shard 0/8, once with --shard 1/8, ... on any machines that share the folder
  torchrun --nproc_per_node 8 -m cotbal.integrations.huggingface.generate --model ... --questions ...

A question is a line {"question_id", "text", "image"?, "task"?}, an answer {"question_id", "text"}. A LoRA is
put on the model that its folder names, or on --base. The prompt has to be that of the training: the first one
is printed, and what `finetune` was told of it holds here too. Exit code 2: something given cannot be right.
"""
# What makes a prompt and is in no other file of a model, as `finetune` writes it where nobody says another.
_PROMPTS = {"system": None, "chat_template_kwargs": "{}", "newline_after_image": False}


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of this command line; None: the process's own."""
    return exit_code(_parser(), _run, words)


def _run(options: argparse.Namespace) -> None:
    # The processes that load pictures are forks of one that has tokenized.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _ask_as_trained(options)
    template = options.chat_template and options.chat_template.read_text(encoding="utf-8-sig")
    settings = {
        "base": options.base,
        "dtype": options.dtype,
        "attention": options.attention,
        "chat_template": template,
        "system": options.system,
        "chat_template_kwargs": options.chat_template_kwargs,
        "image_processor_kwargs": options.image_processor_kwargs,
        "newline_after_image": options.newline_after_image,
        "transformers": version("transformers"),
    }

    def load(device: torch.device) -> Chat:
        # transformers takes seconds to import, and the words are told without it.
        from cotbal.integrations.huggingface.chat import load_chat

        return load_chat(
            options.model,
            options.base,
            device,
            dtype=options.dtype,
            attention=options.attention,
            template=template,
            system=options.system,
            variables=options.chat_template_kwargs,
            newline=options.newline_after_image,
            pictures=options.image_processor_kwargs,
        )

    generate(options, settings, load)


def _ask_as_trained(options: argparse.Namespace) -> None:
    """Fills in what this command line does not say of prompts, as the training with `finetune` had it."""
    folder = Path(options.model)
    # A checkpoint lies in the folder of its training.
    path = (folder.parent if folder.name.startswith("checkpoint-") else folder) / SETTINGS_FILE
    remedy = "move it away to ask without it"
    told = json_object(path, "what `finetune` was begun with", remedy) if path.is_file() else {}
    told = _PROMPTS | told
    told["chat_template_kwargs"] = json.loads(told["chat_template_kwargs"])
    for name in _PROMPTS:
        if getattr(options, name) is None:
            setattr(options, name, told[name])


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("python -m cotbal.integrations.huggingface.generate", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    add(
        "--base",
        metavar="MODEL",
        help="for a LoRA (default: the model that it names), and for a folder without a tokenizer",
    )
    add(
        "--dtype",
        choices=["auto", "bfloat16", "float16", "float32"],
        default="auto",
        help="auto: bfloat16 on a GPU, or float16 where it was saved so; float32 on a CPU",
    )
    add("--attention", metavar="NAME", help="such as flash_attention_2 (default: transformers' own choice)")
    add("--chat-template", type=Path, metavar="FILE", help="a Jinja file in place of the model's own")
    add("--system", metavar="TEXT", help="a system message, if the training had one (default: `finetune`'s)")
    add(
        "--newline-after-image",
        action="store_true",
        default=None,
        help="ask on the line after the picture, if the training's records said '<image>\\n...' and the chat "
        "template adds no line",
    )
    add(
        "--chat-template-kwargs",
        type=_mapping,
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}' (default: `finetune`'s)",
    )
    add(
        "--image-processor-kwargs",
        type=_mapping,
        default={},
        metavar="JSON",
        help="settings of the image processor in place of the folder's, such as '{\"max_pixels\": 1003520}'; "
        "what `finetune` was given is saved with its model",
    )
    return parser


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return content


if __name__ == "__main__":
    ends(main)
