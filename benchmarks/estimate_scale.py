"""Wall time and peak memory of planning and reporting an estimate of 64 tasks, on synthetic records.

    python -m benchmarks.estimate_scale 1000000 10000000

Each step runs in a process of its own: `plan` writes the mini subsets of all tasks, half of them JSON arrays
and half JSONL; `again` finds them there; `report` makes the page from a table of 64 tasks with 200 items
each. The peak is the resident set of the process, Python and its libraries included; `empty` is that of the
command line alone.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.prepare_mix import head, report

N_TASKS = 64
N_ITEMS = 200
TASKS = [f"task{number:02d}" for number in range(N_TASKS)]
QUESTION = "<image>\nWhat is the colour of the thing in the picture that is called number {}?"


def main() -> None:
    """Prints the rows of each number of records given, and that of the report."""
    head()
    report(0, "empty", Path.cwd(), "--version")
    for size in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            write_project(size, Path(folder))
            for step in ("plan", "again"):
                report(size, step, Path(folder), "plan", "estimate.yaml")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        write_table(Path(folder))
        scores = ("scores.csv", "--items", "items.json")
        report(N_TASKS, "report", Path(folder), "report", *scores, "--out", "report")


def write_project(size: int, folder: Path) -> None:
    """Writes so many records, shared out over the tasks, and the file that plans them."""
    (folder / "data").mkdir(parents=True)
    tasks = {}
    for place, task in enumerate(TASKS):
        is_json = place % 2 == 0
        file = folder / "data" / f"{task}.{'json' if is_json else 'jsonl'}"
        count = size // N_TASKS + (place < size % N_TASKS)
        with file.open("w") as stream:
            stream.write("[" if is_json else "")
            for number in range(count):
                between = (",\n" if is_json else "\n") if number else ""
                stream.write(between + json.dumps(record(task, number)))
            stream.write("]\n" if is_json else "\n")
        tasks[task] = {"train": f"data/{file.name}"}
    content = {
        "output": "out",
        "base_model": "base",
        "tasks": tasks,
        "train": {"command": "train {data} {output} {weights}"},
        "evaluate": {"command": "score {model} {task} {scores}"},
    }
    # JSON is YAML.
    (folder / "estimate.yaml").write_text(json.dumps(content))


def record(task: str, number: int) -> dict[str, object]:
    """A question and its answer on a picture."""
    turns = [("human", QUESTION.format(number)), ("gpt", f"answer {number}")]
    return {
        "id": f"{task}-{number}",
        "image": f"pictures/{number:012d}.jpg",
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }


def write_table(folder: Path) -> None:
    """Writes scores.csv and items.json of right-or-wrong items."""
    # Not before: a process counts its parent's memory as its own peak until it runs.
    import torch

    from cotbal.estimate.items_json import write_items
    from cotbal.estimate.scores import Scores

    generator = torch.Generator().manual_seed(0)
    luck = torch.rand(N_TASKS, N_ITEMS, generator=generator)
    mini = 0.2 + 0.2 * torch.rand(N_TASKS, generator=generator)
    given = 0.12 * torch.rand(N_TASKS, N_TASKS, generator=generator) - 0.02
    chances = {"mini": mini}
    for place, task in enumerate(TASKS):
        chances[task] = mini + given[place].where(torch.arange(N_TASKS) != place, 0.35)
    items = {
        run: dict(zip(TASKS, (luck < chance[:, None]).double(), strict=True))
        for run, chance in chances.items()
    }
    means = {run: [float(of_run[task].mean()) for task in TASKS] for run, of_run in items.items()}
    Scores(TASKS, means["mini"], [means[task] for task in TASKS]).to_csv(folder / "scores.csv")
    write_items(folder / "items.json", items)


if __name__ == "__main__":
    main()
