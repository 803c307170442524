"""Time and peak memory of one step."""

import gc
import os
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch

MIB = 2**20
Step = Callable[[], Any]


def milliseconds(step: Step, device: torch.device) -> float:
    """The time of one call of `step`, which has run before."""
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return 1e3 * (time.perf_counter() - start)


def peak_mib(step: Step, device: torch.device) -> float:
    """How far one call of `step` raises the memory of tensors above what is held before it, in MiB."""
    # What an earlier step left in cycles would be freed within this one, and taken off its peak.
    gc.collect()
    if device.type != "cuda":
        return _peak_on_cpu(step)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def _peak_on_cpu(step: Step) -> float:
    # Else the profiler says on the terminal that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    # From torch's own allocator: the process's memory has gaps left by what ran before.
    with torch.profiler.profile(activities=activities, profile_memory=True) as recorded:
        step()
    results = recorded.profiler.kineto_results if recorded.profiler is not None else None
    events = [] if results is None else [each for each in results.events() if each.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(accumulate(changes), default=0) / MIB


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
