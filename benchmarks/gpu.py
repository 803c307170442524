"""All timings of a GPU in one command: at most 200 of them, under 8 minutes.

    python -m benchmarks.gpu                 the plan; again after a stop: it goes on
    python -m benchmarks.gpu --dry-run       only lists it, no GPU needed
    python -m benchmarks.gpu --device cpu --tiny     the same code on small shapes

It needs torch and triton, and times whatever rivals are installed. Results go to benchmarks/results/<device>/.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.bounds import bounds_in_words, check_bounds
from benchmarks.meters import Meter, ceilings, make_meter
from benchmarks.plan import CPU, GPU, LIMIT, TINY, Grid, Item, make_plan
from benchmarks.providers import Provider, find_providers
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
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop after this time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--elapsed", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def grid_of(options: argparse.Namespace) -> Grid:
    return TINY if options.tiny else GPU if options.device == "cuda" else CPU


def plan_of(
    options: argparse.Namespace, providers: dict[str, list[Provider]]
) -> tuple[list[Item], list[Item]]:
    """The timings that are taken, and those beyond the limit."""
    items = make_plan(grid_of(options), providers, full=options.full)
    return (items, []) if options.full else (items[:LIMIT], items[LIMIT:])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 also where a bound fails, 3 where time ran out before the plan did."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parse(given)
    start = time.monotonic() - options.elapsed
    providers, absent = _found(options)
    items, beyond = plan_of(options, providers)
    if options.dry_run:
        _list(items, beyond, absent)
        return 0
    meter = make_meter(options.device)
    # One shape after another is compiled on purpose; the default gives up after 8.
    torch._dynamo.config.recompile_limit = 256
    name = "tiny" if options.tiny else "timings"
    path = path_of(name, meter.device, options.out)
    runner = Runner(path, meter, providers, _head(meter, options, absent, path), fresh=options.fresh)
    for line in absent:
        print(line)
    print(
        f"{len(items)} timings on {runner_device(meter)}; {len(beyond)} more with --full; results in {path}"
    )
    try:
        left = runner.run(items, start + 60 * options.minutes, lambda line: print(line, flush=True))
    except DeviceLostError as error:
        print(f"the device was lost ({error}); going on in a new process", flush=True)
        elapsed = [*_without_elapsed(given), "--elapsed", f"{time.monotonic() - start:.1f}"]
        os.execv(
            sys.executable, [sys.executable, "-m", "benchmarks.gpu", *(a for a in elapsed if a != "--fresh")]
        )
    runner.save(complete=left == 0)
    print(bounds_in_words(check_bounds(load(path))))
    print(f"{time.monotonic() - start:.0f} s")
    if left:
        print(f"time is up: {left} timings are left; run it again to go on")
        return 3
    return 0


def runner_device(meter: Meter) -> str:
    return str(environment(meter.device)["device"])


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


def _list(items: list[Item], beyond: list[Item], absent: list[str]) -> None:
    for item in items:
        print(item.key)
    for line in absent:
        print(line)
    print(f"{len(items)} timings; {len(beyond)} more with --full")


def _without_elapsed(arguments: list[str]) -> list[str]:
    if "--elapsed" not in arguments:
        return arguments
    place = arguments.index("--elapsed")
    return arguments[:place] + arguments[place + 2 :]


if __name__ == "__main__":
    raise SystemExit(main())
