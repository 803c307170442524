"""The meter of a GPU without one: each name that it uses exists in this torch, in the right order."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import meters
from benchmarks.inputs import Case, LossInputs
from benchmarks.plan import Item
from benchmarks.provider import Provider
from benchmarks.results import load
from benchmarks.runner import DeviceLostError, Runner


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Takes the GPU out of torch.cuda; `setattr` fails where torch has no such name."""
    made: list[str] = []

    def note(name: str, result: Any = None) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            return result

        return called

    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache", "_sleep", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, note(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", note("allocated", 2 * meters.MIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", note("peak", 5 * meters.MIB))
    event = SimpleNamespace(record=note("record"), elapsed_time=note("elapsed", 100.0))
    monkeypatch.setattr(torch.cuda, "Event", note("event", event))
    return made


@pytest.fixture
def meter(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> meters.CudaMeter:
    device = torch.device
    monkeypatch.setattr(torch, "device", lambda name: device("cpu") if name == "cuda" else device(name))
    made = meters.CudaMeter()
    calls.clear()
    return made


def test_each_repetition_flushes_sleeps_and_records(meter: meters.CudaMeter, calls: list[str]) -> None:
    meter._flush.fill_(1)
    times = meter.milliseconds(lambda: calls.append("step"))
    # 250 ms at an estimate of 100: 2, but 3 at least.
    assert times == [100.0] * 3
    assert not meter._flush.any()
    assert calls[:4] == ["step", "step", "synchronize", "step"]
    one = ["event", "event", "_sleep", "record", "step", "record"]
    assert calls[4:] == [*one, "synchronize", "elapsed", *one * 3, "synchronize", *["elapsed"] * 3]


@pytest.mark.parametrize(("host_s", "least_s"), [(0.0, 1e-3), (0.02, 0.04)])
def test_the_device_waits_until_the_host_has_queued_the_step(
    meter: meters.CudaMeter, monkeypatch: pytest.MonkeyPatch, host_s: float, least_s: float
) -> None:
    cycles: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", cycles.append)
    meter.milliseconds(lambda: time.sleep(host_s))
    assert len(set(cycles)) == 1
    assert cycles[0] >= least_s * 3e9


def test_the_peak_is_above_what_was_held(meter: meters.CudaMeter, calls: list[str]) -> None:
    assert meter.peak_mib(lambda: calls.append("step")) == 3.0
    assert calls == ["synchronize", "reset_peak_memory_stats", "allocated", "step", "synchronize", "peak"]


def test_a_wait_is_named_and_the_mode_is_put_back(meter: meters.CudaMeter, calls: list[str]) -> None:
    assert meter.without_waiting(lambda: None) == "none"
    assert calls == ["synchronize", "set_sync_debug_mode", "set_sync_debug_mode"]

    def waits() -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nmore")

    assert meter.without_waiting(waits) == "called a synchronizing CUDA operation"
    assert calls[-1] == "set_sync_debug_mode"


def test_a_lost_device_is_a_result_of_the_rival_that_lost_it(
    meter: meters.CudaMeter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An illegal access comes back from every call that follows, that which frees memory too."""

    def lost(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def loss(_: LossInputs) -> None:
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lost)
        lost()

    providers = {"logits": [Provider("rival", "logits", loss, "made up")]}
    runner = Runner(tmp_path / "r.json", meter, providers, {"environment": {}, "ceilings": {}})
    item = Item(Case("logits", 8, 33, dtype="float32"), "rival")
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        runner.run([item], math.inf, lambda _: None)
    (result,) = load(tmp_path / "r.json")["results"]
    assert result["status"] == "failed"


def test_no_gpu_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu"):
        meters.make_meter("cuda")


def test_what_a_step_adds_is_counted_from_what_is_held_not_from_an_earlier_peak() -> None:
    earlier = torch.zeros(64 * meters.MIB, dtype=torch.int8)
    del earlier
    added = meters.added_resident_mib(lambda: torch.zeros(32 * meters.MIB, dtype=torch.int8).add_(1))
    assert 31 <= added <= 40
