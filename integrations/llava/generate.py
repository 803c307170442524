"""`python -m cotbal.integrations.llava.generate`: LLaVA's own generation over held-out questions."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from cotbal.integrations.llava.answers import Answers
from cotbal.integrations.llava.entry import choose_attention
from cotbal.integrations.llava.generation import Prompts, answer, load_checkpoint
from cotbal.integrations.llava.questions import Question, batches_of, check_images, read_questions
from cotbal.integrations.llava.versions import llava_package

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
# ShareGPT4V's captions are paragraphs. LLaVA's own evaluation stops other answers at 128.
_LONG, _MOST = {"ShareGPT4V": 1024}, 128


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 where the answers of this process are written, 2 where something cannot be right.

    Args:
        words: the command line; None: the process's own.
    """
    options = _parser().parse_args(words)
    try:
        return run(options)
    except OSError as error:
        message = (
            f"expected a file that can be read, got {error.filename}: {error.strerror}"
            if error.filename
            else error
        )
        return _refuse(str(message))
    except (ImportError, ValueError) as error:
        # Of a process that loads pictures it comes with that process's traceback before it.
        return _refuse(str(error).rpartition("\nValueError: ")[2])


def run(options: argparse.Namespace) -> int:
    """Generates what is missing of this process's share; 0.

    Raises:
        ImportError: no LLaVA, or versions that do not fit.
        OSError: a file that cannot be read or written.
        ValueError: questions, pictures, a model or settings that cannot be right.
    """
    shard, shards = options.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    questions, digest = read_questions(options.questions)
    check_images(questions, options.image_folder)
    batches = batches_of(questions, options.batch_size)
    most = options.max_new_tokens or longest_answer(questions)
    attention, _ = choose_attention(options.attention)
    package, device = llava_package(options.module), _device()
    settings = _settings(options, package, digest, most, device, attention)
    answers = Answers(options.out, settings, questions, batches)
    if answers.begin():
        # Whoever has which share, what is done stays done, also by another number of processes.
        mine = [number for number in answers.missing() if number % shards == shard]
        if mine:
            with answers.part(shard, shards) as stream:
                made = _generate(options, package, questions, batches, mine, most, device, attention)
                for number, texts in made:
                    answers.add(stream, number, texts)
    if answers.finish() and shard == 0:
        print(f"cotbal: {len(questions)} answers in {options.out}", flush=True)
    return 0


def longest_answer(questions: Sequence[Question]) -> int:
    """The tokens that an answer may have by default, which depends on the tasks."""
    return max(_LONG.get(str(question.task), _MOST) for question in questions)


def _generate(
    options: argparse.Namespace,
    package: ModuleType,
    questions: Sequence[Question],
    batches: Sequence[list[int]],
    mine: Sequence[int],
    most: int,
    device: torch.device,
    attention: str,
) -> Any:
    """Yields number and answers of each batch that is wanted."""
    flash = attention == "flash_attention_2"
    checkpoint = load_checkpoint(package, options.model, options.base, device, flash)
    prompts = Prompts(package, checkpoint, questions, batches, mine, options.image_folder, options.conv_mode)
    loader: Any = DataLoader(prompts, batch_size=None, num_workers=min(options.workers, len(mine)))
    n_cut, n_mine = 0, sum(len(batches[number]) for number in mine)
    quiet = os.environ.get("RANK", "0") != "0"
    with tqdm(total=n_mine, unit=" questions", desc=options.questions.stem, disable=quiet) as bar:
        for asked in loader:
            texts, cut = answer(checkpoint, asked, most)
            n_cut += cut
            yield asked.number, texts
            bar.update(len(texts))
    if n_cut:
        told = f"{n_cut} of {n_mine} answers were cut after {most} tokens; --max-new-tokens takes more"
        print(f"cotbal: {told}", file=sys.stderr, flush=True)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _settings(
    options: argparse.Namespace,
    package: ModuleType,
    digest: str,
    most: int,
    device: torch.device,
    attention: str,
) -> dict[str, Any]:
    """What the answers depend on."""
    folder = Path(options.model)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    known = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return {
        "schema_version": 1,
        "model": os.path.abspath(folder) if folder.is_dir() else options.model,
        "model_files": hashlib.sha256(json.dumps(known).encode()).hexdigest(),
        "base": options.base,
        "questions_sha256": digest,
        "image_folder": os.path.abspath(options.image_folder),
        "batch_size": options.batch_size,
        "max_new_tokens": most,
        "conv_mode": options.conv_mode,
        "device": device.type,
        "attention": attention,
        "package": package.__name__,
        "transformers": version("transformers"),
        "torch": torch.__version__,
    }


def _shard(text: str) -> tuple[int, int]:
    """`I/N`, the I-th of N processes, counted from 0."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, such as 0/4, got {text!r}")
    return int(number), int(count)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cotbal.integrations.llava.generate",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="what LLaVA's training wrote, or a name of the hub")
    add(
        "--base",
        metavar="MODEL",
        help="for a LoRA or a projector alone (default: the model that the LoRA names)",
    )
    add("--questions", required=True, type=Path, metavar="FILE", help="JSONL, as `cotbal prepare` writes it")
    add("--image-folder", type=Path, default=Path(), metavar="FOLDER", help="of the pictures (default: here)")
    add("--out", required=True, type=Path, metavar="FILE", help="where the answers go")
    add("--batch-size", type=_positive, default=16, metavar="N", help="questions at once (default: 16)")
    add("--max-new-tokens", type=_positive, metavar="N", help="of an answer (default: 128; ShareGPT4V 1024)")
    add(
        "--conv-mode", default="v1", help="LLaVA's conversation template; v1, as --version v1 of the training"
    )
    add("--shard", type=_shard, metavar="I/N", help="the I-th of N processes (default: as torchrun says)")
    add("--workers", type=int, default=4, metavar="N", help="processes that load pictures (default: 4)")
    add("--attention", choices=["auto", "flash_attention_2", "sdpa"], default="auto", help="as in training")
    add("--module", default="llava", metavar="NAME", help="a fork's package")
    return parser


def _refuse(message: str) -> int:
    print(f"cotbal: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
