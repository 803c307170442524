"""What cheaper estimates come to on the digit world: `python -m tests.estimate.cheaper OUT [--seeds 0 1 2]`.

Every seed has worlds, a base model and an order of its own. Its runs are the mini run, the probes on 1/4, 1/2
and all of each task, and the equally weighted model; every mode's estimate follows from them. Started again,
it goes on from the finished runs.
"""

import argparse
import sys
from pathlib import Path

from cotbal.demo.pipeline import DemoRecipe
from cotbal.demo.run import headline
from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.plan import Plan
from cotbal.estimate.pool import run_plan
from cotbal.estimate.store import Record, Store, locked
from cotbal.progress import PlainProgress

# Above twice the mini ratio, 1/8, as the rungs of the adaptive mode.
SHARES = ("1/4", "1/2")


def plan_of(recipe: DemoRecipe) -> Plan:
    """The runs of a seed."""
    base = recipe.base()
    probes = [recipe.probe_on(task, share) for share in SHARES for task in recipe.tasks]
    estimation = Algorithm1(recipe).estimation_runs()
    return Plan([*([] if base is None else [base]), recipe.equal(), *estimation, *probes])


def records_of(recipe: DemoRecipe, out: Path, workers: int) -> dict[str, Record]:
    """The finished runs of a seed; those that are not are run first."""
    return run_plan(plan_of(recipe), Store(out), PlainProgress(sys.stderr, headline), workers)


def main() -> None:
    """Runs what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with locked(options.out):
        for seed in options.seeds:
            records_of(DemoRecipe(options.profile, seed), options.out, options.workers)


if __name__ == "__main__":
    main()
