"""Prints the equality table: `python -m tests.integrations.huggingface.equality [--short]`."""

import argparse
import os

# Before torch is imported, here and in the processes that inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.integrations.huggingface.equality.groups import Groups
from tests.integrations.huggingface.equality.outcome import BOUNDS, movement
from tests.integrations.huggingface.equality.rows import BROKEN, CONTROLS, NOT_RUN, SHORT, WHOLE, Row
from tests.integrations.huggingface.equality.samples import WEIGHTS
from tests.integrations.huggingface.equality.table import HEADER, lines


def main() -> None:
    parser = argparse.ArgumentParser(description="The equality table.")
    parser.add_argument("--short", action="store_true", help="the rows of `make test` only")
    rows = SHORT if parser.parse_args().short else WHOLE
    with Groups() as groups:
        losses = groups.task_losses()
        moved = movement(groups.reference(Row("reference")))
        print("loss at the start:", ", ".join(f"{task} {loss:.2f}" for task, loss in losses.items()))
        print("task weights:     ", ", ".join(f"{task} {weight:g}" for task, weight in WEIGHTS.items()))
        print(f"5 steps of gradient descent move the parameters by {moved:.0%}; fp32; bounds:", BOUNDS, "\n")
        print(HEADER)
        for title, each in ("", rows), ("controls", CONTROLS), ("a part taken out", BROKEN):
            print(title)
            for line in lines(groups, [row for row in each if not row.not_run]):
                print(line, flush=True)
        reasons = {row.name: row.not_run for row in rows if row.not_run}
        for name, reason in {**reasons, **NOT_RUN}.items():
            print(f"{name:<74}  not run: {reason}")


if __name__ == "__main__":
    main()
