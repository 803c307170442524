"""The command that asks a model the held-out questions: its words, the shares of processes, what is done."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cotbal.integrations.answering.answers import SETTINGS, Answers
from cotbal.integrations.answering.questions import (
    Batch,
    Question,
    batches_of,
    check_images,
    read_questions,
)
from cotbal.integrations.dialogues import END_OF_THOUGHT
from cotbal.integrations.telling import refuse

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

# ShareGPT4V's captions are paragraphs. LLaVA's own evaluation stops other answers at 128.
_LONG, _MOST = {"ShareGPT4V": 1024}, 128
# Of what makes a model; others may grow beside it while it answers, as the log of this very command.
_OF_MODELS = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".jinja")


class Answerer(Protocol):
    """A model that is loaded, with what makes its prompts."""

    def prompts(
        self, questions: Sequence[Question], batches: Sequence[Batch], wanted: Sequence[int], folder: Path
    ) -> Dataset[Any]:
        """The wanted batches in their order, ready for `answer`.

        Args:
            questions: all of them.
            batches: their places, batch after batch.
            wanted: the numbers of the batches to make.
            folder: of the pictures.

        Raises:
            ValueError: a prompt that the model cannot be given.
        """
        ...

    def answer(self, asked: Any, most: int) -> tuple[list[str], int]:
        """The greedy answers to a batch, and how many of them were cut at `most` new tokens."""
        ...


def parser_of(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The words that every such command takes.

    Args:
        program: how it is called.
        description: before the words, in its help.
        epilog: after them.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="what the training wrote, or a name of the hub")
    add("--questions", required=True, type=Path, metavar="FILE", help="JSONL, as `cotbal prepare` writes it")
    add("--image-folder", type=Path, default=Path(), metavar="FOLDER", help="of the pictures (default: here)")
    add("--out", required=True, type=Path, metavar="FILE", help="where the answers go")
    add("--batch-size", type=_positive, default=16, metavar="N", help="questions at once (default: 16)")
    add("--max-new-tokens", type=_positive, metavar="N", help="of an answer (default: 128; ShareGPT4V 1024)")
    add("--shard", type=_shard, metavar="I/N", help="the I-th of N processes (default: as torchrun says)")
    add("--workers", type=int, default=4, metavar="N", help="processes that prepare prompts (default: 4)")
    return parser


def exit_code(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    words: Sequence[str] | None,
) -> int:
    """0 where the answers of this process are written, 2 with one line where something cannot be right.

    Args:
        parser: made by `parser_of`.
        run: what is done with its options.
        words: the command line; None: the process's own.
    """
    options = parser.parse_args(words)
    try:
        run(options)
    except OSError as error:
        return refuse(error)
    except (ImportError, ValueError) as error:
        # Of a process that loads pictures it comes with that process's traceback before it.
        return refuse(str(error).rpartition("\nValueError: ")[2])
    return 0


def generate(
    options: argparse.Namespace, settings: Mapping[str, Any], load: Callable[[torch.device], Answerer]
) -> None:
    """Generates what is missing of this process's share.

    Args:
        options: of `parser_of`.
        settings: what the answers depend on besides, for JSON.
        load: loads the model; called where there is something left to do.

    Raises:
        ImportError: a package is missing, or of a version that does not fit.
        OSError: a file that cannot be read or written.
        ValueError: questions, pictures, a model or settings that cannot be right.
    """
    shard, shards = options.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    questions, digest = read_questions(options.questions)
    check_images(questions, options.image_folder)
    batches = batches_of(questions, options.batch_size)
    most = options.max_new_tokens or longest_answer(questions)
    device = _device()
    answers = Answers(
        options.out, _settings(options, digest, most, device) | dict(settings), questions, batches
    )
    if answers.begin():
        # Whoever has which share, what is done stays done, also by another number of processes.
        mine = [number for number in answers.missing() if number % shards == shard]
        if mine:
            with answers.part(shard, shards) as stream:
                answerer = load(device)
                prompts = answerer.prompts(questions, batches, mine, options.image_folder)
                for number, texts in _answered(answerer, prompts, options, [batches[n] for n in mine], most):
                    answers.add(stream, number, texts)
    if answers.finish() and shard == 0:
        print(f"cotbal: {len(questions)} answers in {options.out}", flush=True)


def longest_answer(questions: Sequence[Question]) -> int:
    """The tokens that an answer may have by default, which depends on the tasks."""
    return max(_LONG.get(str(question.task), _MOST) for question in questions)


def _answered(
    answerer: Answerer, prompts: Dataset[Any], options: argparse.Namespace, mine: Sequence[Batch], most: int
) -> Iterator[tuple[int, list[str]]]:
    """Number and answers of each batch."""
    # torch takes seconds to import, and the words are told without it.
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    loader: Any = DataLoader(prompts, batch_size=None, num_workers=min(options.workers, len(mine)))
    n_cut, n_mine = 0, sum(map(len, mine))
    quiet = os.environ.get("RANK", "0") != "0"
    with tqdm(total=n_mine, unit=" questions", desc=options.questions.stem, disable=quiet) as bar:
        for asked in loader:
            texts, cut = answerer.answer(asked, most)
            n_cut += cut
            yield asked.number, [text.rpartition(END_OF_THOUGHT)[2].strip() for text in texts]
            bar.update(len(texts))
    if n_cut:
        told = f"{n_cut} of {n_mine} answers were cut after {most} tokens; --max-new-tokens takes more"
        print(f"cotbal: {told}", file=sys.stderr, flush=True)


def _device() -> torch.device:
    import torch

    if not torch.cuda.is_available():
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _settings(options: argparse.Namespace, digest: str, most: int, device: torch.device) -> dict[str, Any]:
    """What the answers of every such command depend on."""
    import torch

    folder = Path(options.model)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in found if path.suffix in _OF_MODELS and path.is_file()]
    # Answers may be kept beside the model that gave them.
    answers = {path.name.removesuffix(SETTINGS) for path in files if path.name.endswith(SETTINGS)}
    files = [path for path in files if path.name.removesuffix(SETTINGS) not in answers]
    known = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return {
        "schema_version": 1,
        "model": os.path.abspath(folder) if folder.is_dir() else options.model,
        "model_files": hashlib.sha256(json.dumps(known).encode()).hexdigest(),
        "questions_sha256": digest,
        "image_folder": os.path.abspath(options.image_folder),
        "batch_size": options.batch_size,
        "max_new_tokens": most,
        "device": device.type,
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
