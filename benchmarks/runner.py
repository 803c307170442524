"""Takes the timings of a plan one by one, each after a check against float64, and keeps what it has.

The file is written whole after every timing, so that a run that is stopped goes on where it was.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.inputs import Case, LossInputs, make_inputs
from benchmarks.meters import Meter, bare_products
from benchmarks.plan import BARE, Item
from benchmarks.provider import Provider
from benchmarks.results import load, save
from benchmarks.step import Error, Reference, step

# Units in the last place, by bytes of the dtype: enough for sums over many chunks, far too few for a wrong
# weight. In 16 bits 4 of them are 3 % (bfloat16) of the largest entry.
GATES = {2: 4.0, 4: 32.0}
# Seconds that a timing may take, its compilation and its check among them.
LONGEST = 150.0


class DeviceLostError(RuntimeError):
    """An error after which this process cannot use the device; a new process goes on."""


class Runner:
    """Measures items and keeps the results file.

    Args:
        path: of the results file; results in it of the same environment and code are not taken again, those
            of another are kept beside it, in `before`.
        meter: of the device.
        providers: by level.
        head: what the file says besides the results (environment, ceilings, absent rivals).
        fresh: forget what the file has.
        goes_on: this run was begun by another process: what failed there is not tried again.
        hung: called from another thread where a timing takes longer than `LONGEST`, with its failure in the
            file. It has to end this process, which cannot be got out of that timing.
    """

    def __init__(
        self,
        path: Path,
        meter: Meter,
        providers: dict[str, list[Provider]],
        head: dict[str, Any],
        *,
        fresh: bool = False,
        goes_on: bool = False,
        hung: Callable[[str], object] | None = None,
    ) -> None:
        self._path, self._meter, self._head, self._hung = path, meter, head, hung
        self._providers = {(p.level, p.name): p for found in providers.values() for p in found}
        self.results: dict[str, dict[str, Any]] = {}
        self._reference: tuple[Case, bool, Reference] | None = None
        self.before: Path | None = None
        if path.exists() and not fresh:
            content = load(path)
            if content["environment"] == head["environment"]:
                kept = (each for each in content["results"] if goes_on or each["status"] == "ok")
                self.results = {each["key"]: each for each in kept}
            elif content["results"]:
                # Hours of the whole grid; an upgrade of a rival is enough to be another environment.
                self.before = path.replace(path.with_name(f"{path.name}.before"))

    def run(self, items: list[Item], deadline: float, say: Callable[[str], None]) -> int:
        """Measures what is not measured yet until `deadline` (of the monotonic clock); returns what is left.

        Raises:
            DeviceLostError: the device cannot be used any more; its cause is in the file as a failure.
        """
        waiting = [item for item in items if item.key not in self.results]
        for place, item in enumerate(waiting):
            if time.monotonic() >= deadline:
                return len(waiting) - place
            with self._watched(item):
                result = self._measured(item)
            self.results[item.key] = result
            self.save(complete=place == len(waiting) - 1)
            done = len(items) - len(waiting) + place + 1
            say(f"[{done:>3}/{len(items)}] {in_words(result)}")
            if result["status"] == "failed" and self._meter.is_lost():
                raise DeviceLostError(result["message"])
        return 0

    def save(self, *, complete: bool) -> Path:
        """Writes the file."""
        content = self._head | {"complete": complete, "results": list(self.results.values())}
        return save(self._path, content)

    @contextmanager
    def _watched(self, item: Item) -> Iterator[None]:
        watch = threading.Timer(LONGEST, self._give_up, (item, self._hung))
        watch.daemon = True
        if self._hung is not None:
            watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _give_up(self, item: Item, hung: Callable[[str], object]) -> None:
        message = f"given up after {LONGEST:.0f} s"
        self.results[item.key] = _head_of(item) | {"status": "failed", "message": message}
        self.save(complete=False)
        hung(f"{item.provider}: {message}")

    def _measured(self, item: Item) -> dict[str, Any]:
        result = _head_of(item)
        try:
            return result | (self._bare(item.case) if item.provider == BARE else self._timed(item))
        # Its name in every torch; the shorter one came with 2.5.
        except torch.cuda.OutOfMemoryError:
            self._reference = None
            return result | {"status": "out of memory"}
        # Whatever a rival raises is a result, and the others are still measured.
        except Exception as error:
            first = (str(error).strip() or "?").splitlines()[0]
            return result | {"status": "failed", "message": f"{type(error).__name__}: {first[:300]}"}
        finally:
            self._meter.tidy()

    def _timed(self, item: Item) -> dict[str, Any]:
        provider = self._providers[item.case.level, item.provider]
        described = {
            "configured": provider.configured,
            "ours": provider.ours,
            "weighted": provider.weighted,
            "exact": provider.exact,
            "compacts": provider.compacts,
        }
        errors = self._errors(provider, item.case)
        described["errors"] = {name: asdict(error) for name, error in errors.items()}
        if not all(is_right(error, item.case) for error in errors.values()):
            return described | {"status": "wrong", "message": "an error is too large; not timed"}
        inputs = make_inputs(item.case, self._meter.device)

        def once() -> Any:
            return step(provider, inputs)

        times = self._meter.milliseconds(once)
        peak = self._meter.peak_mib(once)
        waits = self._meter.without_waiting(once) if provider.ours else ""
        return described | _figures(times, inputs) | {"peak_mib": peak, "synchronisations": waits}

    def _errors(self, provider: Provider, case: Case) -> dict[str, Error]:
        with _room_for_the_check():
            reference = self._reference_of(case, weighted=provider.weighted)
        got = step(provider, make_inputs(case, self._meter.device))
        with _room_for_the_check():
            return reference.errors(got)

    def _reference_of(self, case: Case, *, weighted: bool) -> Reference:
        held = self._reference
        if held is None or held[:2] != (case, weighted):
            self._reference = None
            self._meter.tidy()
            self._reference = held = (case, weighted, Reference(case, self._meter.device, weighted=weighted))
        return held[2]

    def _bare(self, case: Case) -> dict[str, Any]:
        self._reference = None
        inputs = make_inputs(case, self._meter.device)
        times = self._meter.milliseconds(bare_products(*inputs.features, frozen_head=case.frozen_head))
        return {"configured": "the two or three products alone, into memory that is there"} | _figures(
            times, inputs
        )


def _head_of(item: Item) -> dict[str, Any]:
    return {
        "key": item.key,
        "provider": item.provider,
        "case": asdict(item.case),
        "status": "ok",
        "message": "",
    }


@contextmanager
def _room_for_the_check() -> Iterator[None]:
    """What float64 needs is not said of the loss that is checked."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise RuntimeError("not timed: its check in float64 takes more memory than there is") from error


def is_right(error: Error, case: Case) -> bool:
    """Whether an error is one of rounding; NaN is not."""
    # A loss in the logits' dtype is a rival's choice: published, but not wrong.
    gate = GATES[case.torch_dtype.itemsize] * torch.finfo(case.torch_dtype).eps
    return error.absolute <= gate * max(error.largest, 1e-30)


def _figures(times: list[float], inputs: LossInputs) -> dict[str, Any]:
    case = inputs.case
    seconds = statistics.median(times) / 1e3
    found: dict[str, Any] = {
        "milliseconds": 1e3 * seconds,
        "fastest": min(times),
        "slowest": max(times),
        "repetitions": len(times),
    }
    if case.level == "logits":
        # Each logit read once and its gradient written once: 4 N V bytes in 16 bits, whatever was moved.
        n_bytes = 2 * case.rows * case.vocabulary * case.torch_dtype.itemsize
        return found | {"bytes_per_s": n_bytes / seconds}
    # One product forward and two backward (one with a frozen head) over the valid rows.
    products = 4 if case.frozen_head else 6
    return found | {"flop_per_s": products * inputs.valid_count * case.vocabulary * case.width / seconds}


def in_words(result: dict[str, Any]) -> str:
    """One line of the progress."""
    case = Case(**result["case"])
    if result["status"] != "ok":
        outcome = f"{result['status']}{': ' if result['message'] else ''}{result['message']}"
    elif case.level == "logits":
        outcome = f"{result['milliseconds']:9.3f} ms  {result['bytes_per_s'] / 1e9:7.0f} GB/s"
    else:
        outcome = f"{result['milliseconds']:9.3f} ms  {result['flop_per_s'] / 1e12:7.1f} TFLOP/s"
    memory = f"  {result['peak_mib']:8.0f} MiB" if result.get("peak_mib") is not None else ""
    return f"{result['provider']:<16} {outcome}{memory}  ({case})"
