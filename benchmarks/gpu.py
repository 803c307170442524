"""All timings of a GPU in one command: at most 200 of them, under 8 minutes.

    python -m benchmarks.gpu                 the plan; again after a stop: it goes on
    python -m benchmarks.gpu --dry-run       only lists it, no GPU needed
    python -m benchmarks.gpu --full          the whole grid: thousands of timings, hours
    python -m benchmarks.gpu --device cpu --tiny     the same code on small shapes

It needs torch and triton, and times whatever rivals are installed. The results go to
benchmarks/results/<device>/.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.bounds import bounds_in_words, check_bounds
from benchmarks.meters import Meter, ceilings, device_name, make_meter
from benchmarks.plan import CPU, GPU, LIMIT, TINY, Grid, Item, make_plan
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.results import RESULTS, environment, load, path_of
from benchmarks.runner import DeviceLostError, Runner

MINUTES = 7.5


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--full", action="store_true", help="the whole grid, without a limit of timings")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the code")
    parser.add_argument("--dry-run", action="store_true", help="list the plan and stop")
    parser.add_argument("--fresh", action="store_true", help="take all timings again")
    parser.add_argument("--only", nargs="*", default=[], metavar="PROVIDER", help="only these")
    parser.add_argument("--minutes", type=float, help=f"stop then; {MINUTES}, or never with --full")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--json", action="store_true", help="print the results file and the bounds as JSON")
    parser.add_argument("--elapsed", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def minutes_of(options: argparse.Namespace) -> float:
    """When to stop; the whole grid takes hours and is not cut into pieces unless asked for."""
    if options.minutes is not None:
        return float(options.minutes)
    return math.inf if options.full else MINUTES


def grid_of(options: argparse.Namespace) -> Grid:
    return TINY if options.tiny else GPU if options.device == "cuda" else CPU


def plan_of(options: argparse.Namespace, providers: dict[str, list[Provider]]) -> tuple[list[Item], str]:
    """The timings that are taken, and how many they are of the whole grid, in words."""
    whole = make_plan(grid_of(options), providers, full=True)
    items = whole if options.full else make_plan(grid_of(options), providers)[:LIMIT]
    more = len(set(whole) - set(items))
    return items, f"{len(items)} timings" + (f", {more} more with --full" if more else "")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 also where a bound fails, 3 where time ran out before the plan did."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    start = time.monotonic() - options.elapsed
    providers, absent = _found(options)
    items, how_many = plan_of(options, providers)
    if options.dry_run:
        for line in [*(item.key for item in items), *absent]:
            print(line)
        print(how_many)
        return 0
    # With --json standard output is the JSON alone.
    say = partial(print, flush=True, file=sys.stderr if options.json else sys.stdout)
    meter = make_meter(options.device)
    path = path_of("tiny" if options.tiny else "timings", meter.device, options.out)
    head = _head(meter, options, absent, path)

    def in_a_new_process(cause: str) -> NoReturn:
        say(f"{cause}; going on in a new process")
        _start_anew(given, time.monotonic() - start)

    goes_on = options.elapsed > 0
    runner = Runner(path, meter, providers, head, fresh=options.fresh, goes_on=goes_on, hung=in_a_new_process)
    where = f"{device_name(meter.device)}; results: {path}"
    say("\n".join([*absent, f"{how_many}, on {where}"]))
    if runner.before is not None:
        say(f"what other packages, another machine or other code have measured: {runner.before}")
    try:
        left = runner.run(items, start + 60 * minutes_of(options), say)
    except DeviceLostError as error:
        in_a_new_process(f"the device was lost ({error})")
    runner.save(complete=left == 0)
    _conclude(load(path), say, as_json=options.json)
    say(f"{time.monotonic() - start:.0f} s")
    if left:
        say(f"time is up: {left} timings are left; run it again to go on")
    return 3 if left else 0


def _start_anew(arguments: list[str], elapsed: float) -> NoReturn:
    """Replaces this process by one that goes on with what the file has, and with the time that is left."""
    place = arguments.index("--elapsed") if "--elapsed" in arguments else len(arguments)
    kept = [word for word in arguments[:place] + arguments[place + 2 :] if word != "--fresh"]
    again = [sys.executable, "-m", "benchmarks.gpu", *kept, "--elapsed", f"{elapsed:.1f}"]
    os.execv(sys.executable, again)


def _conclude(content: dict[str, Any], say: Callable[[str], None], *, as_json: bool) -> None:
    bounds = check_bounds(content)
    say(bounds_in_words(bounds))
    if as_json:
        checked = [asdict(bound) | {"passed": bound.passed} for bound in bounds]
        print(json.dumps(content | {"bounds": checked}, indent=1))


def _found(options: argparse.Namespace) -> tuple[dict[str, list[Provider]], list[str]]:
    providers, lines = {}, []
    for level in ("logits", "linear"):
        # A plan can be listed anywhere, with all that import.
        device = "cuda" if options.dry_run else options.device
        providers[level], absent = find_providers(level, device, names=tuple(options.only))
        lines += [str(line) for line in absent]
    return providers, lines


def _head(meter: Meter, options: argparse.Namespace, absent: list[str], path: Path) -> dict[str, Any]:
    """Environment and ceilings; the ceilings of an earlier part of the same run are kept."""
    found = environment(meter.device)
    if path.exists() and not options.fresh:
        content = load(path)
        if content["environment"] == found:
            return {key: content[key] for key in ("environment", "ceilings")} | {"absent": absent}
    return {"environment": found, "ceilings": ceilings(meter, tiny=options.tiny), "absent": absent}


if __name__ == "__main__":
    code = main()
    # A process was seen to abort in C++ behind this, with all results written.
    sys.stdout.flush()
    os._exit(code)
