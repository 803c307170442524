"""Runs of 12 steps in processes of their own: whole, killed in step 7, gone on from the last checkpoint."""

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchjd.scalarization import UW
from transformers import TrainerCallback

from cotbal.balancing import DWA, RLW, IGBv1, TorchJDWeighting, Weighting
from cotbal.integrations.huggingface import CoTBalTrainer
from tests.integrations.huggingface.training import arguments, collator, records, tiny_model
from tests.ports import free_port

STEPS, KILLED_AT, SAVE_STEPS = 12, 7, 5
# The last one before the kill.
CHECKPOINT = f"checkpoint-{SAVE_STEPS}"
RULES: dict[str, Callable[[], Weighting]] = {
    "DWA": lambda: DWA(window=2),
    "IGBv1": lambda: IGBv1(1, 3),
    "RLW": lambda: RLW(seed=0),
    "torchjd UW": lambda: TorchJDWeighting(UW(2)),
}


@dataclass(frozen=True)
class Outcome:
    """What a process left behind.

    Attributes:
        weights: the task weights of the steps that it ran, by step from 1.
        parameters: the model's at the end, by name.
        state: the weighting's.
    """

    weights: dict[int, list[float]]
    parameters: dict[str, np.ndarray]
    state: dict[str, Any]


class KillAt(TrainerCallback):
    """Kills its own process, as a machine that fails: nothing is cleaned up."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def run(rule: str, folder: Path, mode: str, n_ranks: int = 1) -> list[Outcome]:
    """What each rank ends with; nothing where `mode` is "killed".

    Args:
        rule: a key of RULES.
        folder: where the checkpoints are.
        mode: "whole"; "killed" at the end of step 7; "resumed" from the checkpoint; "forgetful": resumed
            by a weighting whose `load_state_dict` does nothing.
        n_ranks: processes of one gloo group.
    """
    # One import of everything, and a fork of it for each process.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    port, pipes, processes = free_port(), [], []
    for rank in range(n_ranks):
        ours, theirs = context.Pipe(duplex=False)
        place = (rank, n_ranks, port) if n_ranks > 1 else None
        processes.append(context.Process(target=_serve, args=(theirs, place, rule, folder, mode)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    outcomes = []
    for pipe, process in zip(pipes, processes, strict=True):
        if mode != "killed":
            outcomes.append(pipe.recv())
        process.join(120)
        assert process.exitcode == (-signal.SIGKILL if mode == "killed" else 0)
    return outcomes


def _serve(pipe: Connection, place: tuple[int, int, int] | None, rule: str, folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    # The imports that it was forked with, which the training would look through for garbage.
    gc.freeze()
    if place is not None:
        rank, n_ranks, port = map(str, place)
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_ranks}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pipe.send(_train(rule, folder, mode))
    if place is not None:
        torch.distributed.destroy_process_group()


def _train(rule: str, folder: Path, mode: str) -> Outcome:
    weighting = RULES[rule]()
    if mode == "forgetful":
        type(weighting).load_state_dict = lambda self, saved: None  # type: ignore[method-assign]
    # Adam, its schedule, a shuffled order and an epoch's end on the way: all of it has to go on as well.
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear"}
    options |= {"save_strategy": "steps", "save_steps": SAVE_STEPS, "logging_steps": 4}
    options |= {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
    trainer = CoTBalTrainer(
        tiny_model(),
        arguments(folder, batch=2, accumulation=2, steps=STEPS, **options),
        train_dataset=records(22),
        data_collator=collator(),
        weights=weighting,
        callbacks=[KillAt()] if mode == "killed" else None,
    )
    taken = _recorded(weighting)
    goes_on = mode in ("resumed", "forgetful")
    trainer.train(resume_from_checkpoint=str(folder / CHECKPOINT) if goes_on else None)
    trainer.flush()
    first = STEPS - len(taken) + 1
    parameters = {name: each.detach().numpy() for name, each in trainer.model.named_parameters()}
    return Outcome(dict(enumerate(taken, start=first)), parameters, weighting.state_dict())


def _recorded(weighting: Weighting) -> list[list[float]]:
    """A list that gets the weights of each step."""
    taken: list[list[float]] = []
    inner = weighting.weights

    def weights(counts: torch.Tensor) -> torch.Tensor:
        result = inner(counts)
        taken.append(result.tolist())
        return result

    weighting.weights = weights  # type: ignore[method-assign]
    return taken
