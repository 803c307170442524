"""One rank: runs the cases of a file through the real `llava.train.train.train()`, one after another.

    python -m tests.integrations.llava.launch <folder>      RANK, WORLD_SIZE, ... as torchrun sets them

The folder holds cases.pt, `(world, [case, ...])`; each case's recording goes to <folder>/<case>/rank<k>.pt.
"""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from llava.model import LlavaMistralForCausalLM
from llava.train import train as llava_train

import cotbal
import tests.conftest  # noqa: F401
from cotbal.balancing import DWA, RLW, Weighting
from tests.integrations.llava.cases import WEIGHTS, Case, arguments
from tests.integrations.llava.recorder import Recording, recorded
from tests.integrations.llava.world import World

# Rules whose weights change, of which each run gets one of its own; and weights as VisATB has them.
WEIGHTINGS: dict[str, Callable[[], Weighting | list[float]]] = {
    "list": lambda: [*WEIGHTS.values()],
    "dwa": lambda: DWA(window=1, temperature=0.5),
    "rlw": lambda: RLW(seed=3),
}


def main(folder: Path) -> None:
    world, cases = torch.load(folder / "cases.pt", weights_only=False)
    if not torch.cuda.is_available():
        # LLaVA's own saving under DeepSpeed asks for it.
        torch.cuda.synchronize = lambda *_: None
    # Each training ends with a collection, which would look through all the imports.
    gc.freeze()
    for case in cases:
        output = folder / case.name
        output.mkdir(exist_ok=True)
        with as_started_for(case):
            recording = run(case, world, folder)
        torch.save(recording, output / f"rank{os.environ.get('RANK', 0)}.pt")


def run(case: Case, world: World, folder: Path) -> Recording:
    """The recording of a run; an error that stopped it is kept as its last line."""
    recording = Recording()
    # The projector is initialised before the Trainer seeds.
    torch.manual_seed(0)
    own, sys.argv = (
        sys.argv,
        ["train.py", *arguments(case, world, folder / (case.resumes or case.name) / "output")],
    )
    try:
        with recorded(recording, case.order), _patched(case), _backbone(case):
            llava_train.train()
    except (ImportError, RuntimeError, ValueError):
        recording.error = traceback.format_exc()
    finally:
        sys.argv = own
    return recording


@contextmanager
def as_started_for(case: Case) -> Iterator[None]:
    """Afterwards nothing of this run's precision or DeepSpeed is left for the next."""
    before = dict(os.environ)
    if case.zero:
        deepspeed = import_module("deepspeed")
        # Shared-memory collectives are compiled at the first use, for minutes; gloo does.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        import_module("transformers.integrations.deepspeed").unset_hf_deepspeed_config()


@contextmanager
def _patched(case: Case) -> Iterator[None]:
    if case.weights is None:
        yield
        return
    weights = WEIGHTINGS[case.weights]() if isinstance(case.weights, str) else dict(case.weights)
    with cotbal.patch(weights=weights, **case.patch):
        yield


@contextmanager
def _backbone(case: Case) -> Iterator[None]:
    """`train()` names the Llama class; a Mistral is trained by putting its class there, as its users do."""
    llama = llava_train.LlavaLlamaForCausalLM
    if case.model == "mistral":
        llava_train.LlavaLlamaForCausalLM = LlavaMistralForCausalLM
    try:
        yield
    finally:
        llava_train.LlavaLlamaForCausalLM = llama


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Gloo's threads, alive at the end of the process, abort it now and then.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
