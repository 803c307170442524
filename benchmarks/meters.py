"""Measuring on one device: time, peak memory, and the two ceilings, a copy and a product."""

import gc
import platform
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cotbal.doctor.measure import peak_mib

Step = Callable[[], Any]
MIB = 2**20
_PROCESS = Path("/proc/self")


class Meter(Protocol):
    """What the runner needs of a device; the one part that differs between a GPU and a CPU."""

    device: torch.device

    def milliseconds(self, step: Step) -> list[float]:
        """The time of each repetition, after a warm-up."""

    def peak_mib(self, step: Step) -> float:
        """How far one step raises the memory above what is held before it."""

    def without_waiting(self, step: Step) -> str:
        """What made the host wait for the device: "none" where nothing did, "" where unknown."""

    def is_lost(self) -> bool:
        """Whether an error has left the device unusable for this process."""

    def tidy(self) -> None:
        """Gives freed memory back."""


class CudaMeter:
    """CUDA events, the L2 cache flushed before each repetition, the host ahead of the device."""

    # A repetition is worth so much time in all; at least 3 of them, at most 50.
    BUDGET_MS = 250.0
    # The device waits for LEAD times what the host takes to queue a step, LEAD_S at least: it finds each
    # launch queued, as in training. No GPU's clock is faster.
    LEAD, LEAD_S, CYCLES_PER_S = 2.0, 1e-3, 3e9

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        # Larger than any L2 cache.
        self._flush = torch.empty(256 * MIB, dtype=torch.int8, device=self.device)

    def milliseconds(self, step: Step) -> list[float]:
        for _ in range(2):
            step()
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        lead_s = max(self.LEAD_S, self.LEAD * (time.perf_counter() - began))
        (estimate,) = self._repeated(step, lead_s, 1)
        count = int(min(50, max(3, self.BUDGET_MS / max(estimate, 1e-3))))
        return self._repeated(step, lead_s, count)

    def _repeated(self, step: Step, lead_s: float, count: int) -> list[float]:
        events = [self._queue(step, lead_s) for _ in range(count)]
        torch.cuda.synchronize()
        return [float(start.elapsed_time(stop)) for start, stop in events]

    def _queue(self, step: Step, lead_s: float) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        torch.cuda._sleep(int(lead_s * self.CYCLES_PER_S))
        start.record()
        step()
        stop.record()
        return start, stop

    def peak_mib(self, step: Step) -> float:
        # What an earlier step left in cycles would be freed within this one.
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        made = step()
        torch.cuda.synchronize()
        del made
        return (torch.cuda.max_memory_allocated() - before) / MIB

    def without_waiting(self, step: Step) -> str:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return "none"

    def is_lost(self) -> bool:
        try:
            torch.cuda.synchronize()
            torch.zeros(1, device=self.device).item()
        except RuntimeError:
            return True
        return False

    def tidy(self) -> None:
        # A device that is lost has nothing to give back, and says so; whoever asks `is_lost` goes on.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


class CpuMeter:
    """Wall clock and torch's allocator; also so that the code for a GPU runs where there is none."""

    BUDGET_MS = 1500.0

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def milliseconds(self, step: Step) -> list[float]:
        estimate = self._once(step)
        count = int(min(9, max(3, self.BUDGET_MS / max(estimate, 1e-3))))
        return [self._once(step) for _ in range(count)]

    def _once(self, step: Step) -> float:
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)

    def peak_mib(self, step: Step) -> float:
        return peak_mib(step, self.device)

    def without_waiting(self, step: Step) -> str:
        return ""

    def is_lost(self) -> bool:
        return False

    def tidy(self) -> None:
        pass


def added_resident_mib(step: Step) -> float:
    """How far a step raises this process's memory above what it held before, in MiB. Linux only."""
    # The peak so far may be another's: that of making the inputs. Writing 5 sets it to what is held now.
    _PROCESS.joinpath("clear_refs").write_text("5")
    held = _status_kib("VmRSS")
    step()
    return (_status_kib("VmHWM") - held) / 1024


def _status_kib(field: str) -> int:
    # Not getrusage: there a child begins with the peak of the process that started it.
    return int(re.findall(rf"{field}:\s+(\d+) kB", _PROCESS.joinpath("status").read_text())[0])


def make_meter(device: str) -> CudaMeter | CpuMeter:
    """The meter of "cuda" or "cpu".

    Raises:
        SystemExit: there is no such device here; a command ends with that line.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("--device: expected a CUDA GPU, found none; --device cpu runs the same on a CPU")
        return CudaMeter()
    if device == "cpu":
        return CpuMeter()
    raise SystemExit(f"--device: expected cuda or cpu, got {device!r}")


def ceilings(meter: Meter, *, tiny: bool = False) -> dict[str, float]:
    """Bytes/s (read and written) of a large copy and FLOP/s of a large product in bfloat16, random data."""
    n_bytes, side = (MIB, 64) if tiny else (2 * 2**30, 8192) if meter.device.type == "cuda" else (2**27, 1024)
    source = torch.randint(256, (n_bytes,), dtype=torch.uint8, device=meter.device)
    copy = statistics.median(meter.milliseconds(partial(torch.empty_like(source).copy_, source)))
    dtype = torch.bfloat16 if meter.device.type == "cuda" else torch.float32
    left, right = (torch.randn(side, side, device=meter.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    product = statistics.median(meter.milliseconds(partial(torch.mm, left, right, out=out)))
    return {"copy_bytes_per_s": 2e3 * n_bytes / copy, "product_flop_per_s": 2e3 * side**3 / product}


def bare_products(hidden: Tensor, head: Tensor, *, frozen_head: bool) -> Step:
    """The products that no linear loss can do without, into memory that is there already."""
    hidden, head = hidden.detach(), head.detach()
    logits = torch.randn(len(hidden), len(head), device=hidden.device, dtype=hidden.dtype)
    hidden_gradient, head_gradient = torch.empty_like(hidden), torch.empty_like(head)

    def run() -> None:
        torch.mm(hidden, head.t(), out=logits)
        torch.mm(logits, head, out=hidden_gradient)
        if not frozen_head:
            torch.mm(logits.t(), hidden, out=head_gradient)

    return run


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = []
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.processor() or platform.machine()
