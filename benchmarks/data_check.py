"""Wall time and peak memory of `cotbal data check` on synthetic records, pictures not opened.

    python -m benchmarks.data_check 100000 1000000

Each size runs in a process of its own, on records of a picture and five questions; one in a thousand stands
twice, and one in a thousand held-out questions is trained on. The peak is the resident set of the process,
Python and its libraries included; `empty` is that of the command line alone. With --workers N, N processes
examine records, and the peak is that of the largest of them or of the one that started them.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.prepare_mix import QUESTION, TURNS, head, record, report
from cotbal.data.table1 import TABLE

ONE_IN = 1000


def main() -> None:
    """Prints a row for each size given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="+", type=int)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    head()
    report(0, "empty", Path.cwd(), "--version")
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            write(size, Path(folder))
            arguments = [
                "--split",
                "validation=val.jsonl",
                "--records-only",
                "--workers",
                str(options.workers),
            ]
            step = f"check x{options.workers}"
            report(size, step, Path(folder), "data", "check", "train.json", *arguments, codes=(1,))


def write(size: int, folder: Path) -> None:
    """Writes so many records, and a tenth as many held-out questions."""
    tasks = list(TABLE)
    with (folder / "train.json").open("w") as stream:
        for number in range(size):
            task = tasks[number * len(tasks) // size]
            # The record before it, now and then.
            content = record(task, number - (number % ONE_IN == ONE_IN - 1)) | {"task": task}
            stream.write(("[\n" if not number else ",\n") + json.dumps(content))
        stream.write("\n]\n")
    with (folder / "val.jsonl").open("w") as stream:
        for number in range(size // 10):
            # A picture of the training, now and then; else one of its own.
            picture = record("", number if number % ONE_IN == 0 else size + number)["image"]
            text = QUESTION.format(number % TURNS)
            question = {
                "question_id": number,
                "image": picture,
                "text": text,
                "answer": "a",
                "task": tasks[0],
            }
            stream.write(json.dumps(question) + "\n")


if __name__ == "__main__":
    main()
