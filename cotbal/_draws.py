"""Draws of one's own: the generators start from a seed inside, and are as they were outside."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def own_draws(seed: int, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Seeds the generators of the CPU and of these devices, and puts the CPU's and the GPUs' back.

    Other GPUs' are not touched, as `torch.manual_seed` would: whoever draws from them goes on.
    """
    devices = set(devices)
    current = torch.cuda.current_device
    gpus = {current() if each.index is None else each.index for each in devices if each.type == "cuda"}
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        # Of an accelerator that has one generator, whose state is not kept.
        for kind in {each.type for each in devices} - {"cpu", "cuda", "meta"}:
            getattr(torch, kind).manual_seed(seed)
        yield


def devices_of(module: nn.Module) -> set[torch.device]:
    """Where its parameters and buffers are."""
    return {each.device for each in chain(module.parameters(), module.buffers())}
