"""One rank: runs the cases of a file through LLaVA-NeXT's real `train()`, one after another.

    python -m tests.integrations.llava_next.launch <folder>      RANK, WORLD_SIZE, ... as torchrun sets them

The folder holds cases.pt, `(world, [case, ...])`; each case's recording goes to <folder>/<case>/rank<k>.pt.
"""

import os
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from llava.train import train as next_train

import tests.conftest  # noqa: F401
from tests.integrations.llava.cases import Case
from tests.integrations.llava.launch import as_started_for
from tests.integrations.llava.recorder import Recording, recorded
from tests.integrations.llava_next.cases import arguments
from tests.integrations.llava_next.world import World


def main(folder: Path) -> None:
    world, cases = torch.load(folder / "cases.pt", weights_only=False)
    rank = int(os.environ.get("RANK", 0))
    if not torch.cuda.is_available():
        # Its own saving asks for it.
        torch.cuda.synchronize = lambda *_: None
    for case in cases:
        output = folder / case.name
        output.mkdir(exist_ok=True)
        # Its "random" strategy draws on every rank by itself, unseeded.
        random.seed(rank)
        with as_started_for(case):
            recording = run(case, world, folder)
        torch.save(recording, output / f"rank{rank}.pt")


def run(case: Case, world: World, folder: Path) -> Recording:
    """The recording of a run, with the ids of this rank's records; it keeps an error that stopped it."""
    recording = Recording()
    # The projector is initialised before the Trainer seeds.
    torch.manual_seed(0)
    sys.argv = ["train.py", *arguments(case, world, folder / (case.resumes or case.name) / "output")]
    try:
        with recorded(recording, case.order), _ids_noted(recording), _patched(case):
            next_train.train()
    except Exception:
        recording.error = traceback.format_exc()
    return recording


@contextmanager
def _patched(case: Case) -> Iterator[None]:
    if case.weights is None:
        yield
        return
    import cotbal

    with cotbal.patch(weights=case.weights, **case.patch):
        yield


@contextmanager
def _ids_noted(recording: Recording) -> Iterator[None]:
    init = next_train.LLaVATrainer.__init__

    def noted(trainer: object, **keywords: object) -> None:
        init(trainer, **keywords)
        recording.ids = [record["id"] for record in trainer.train_dataset.list_data_dict]

    next_train.LLaVATrainer.__init__ = noted
    try:
        yield
    finally:
        next_train.LLaVATrainer.__init__ = init


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Gloo's threads, alive at the end of the process, abort it now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
