"""Wall time and peak memory of `cotbal prepare` and `cotbal prepare mix` on synthetic questions.

    python -m benchmarks.prepare_mix 100000 1000000

Each size runs in processes of its own. Seven tasks and ShareGPT share the records, a record is a picture with
five questions. The peak is the resident set of the process, Python and its libraries included; `empty` is
that of the command line alone. On a machine that others use, CPU seconds tell more than the clock's.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cotbal.data.inputs import Inputs
from cotbal.data.table1 import TABLE
from cotbal.data.task_folder import TaskFolder

TURNS = 5
QUESTION = "What is the colour of the thing in the picture that is called number {}?"
_RUN = """
import resource, sys
from cotbal.cli import main
try:
    main()
finally:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(cpu, max(each.ru_maxrss for each in used), file=sys.stderr)
"""


def main() -> None:
    """Prints a row for each size given."""
    head()
    report(0, "empty", Path.cwd(), "--version")
    for size in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            measure(size, Path(folder))


def head() -> None:
    """Prints the columns' names."""
    print(f"{'records':>9} {'step':<8} {'seconds':>8} {'CPU s':>7} {'peak MiB':>9} {'written MB':>11}")


def measure(size: int, folder: Path) -> None:
    """Prints the rows of one size."""
    (folder / "gqa").mkdir()
    with (folder / "gqa" / "train_balanced_questions.json").open("w") as stream:
        stream.write("{")
        for number in range(size):
            # Neighbours are on different pictures, as in the published file.
            value = {"question": QUESTION.format(number), "imageId": str(number * 7919 % size // TURNS)}
            text = json.dumps(value | {"answer": "red", "semantic": "select: wall (1)", "groups": {}})
            stream.write(f'{"," if number else ""}"{number}": {text}\n')
        stream.write("}")
    report(size, "gqa", folder, "prepare", "gqa", "--annotations", "gqa", "--out", "one")
    for task in TABLE:
        out = TaskFolder(folder / "data", task, "json")
        inputs = Inputs()
        out.train((record(task, number) for number in range(size // len(TABLE))), inputs)
        out.finish("synthetic", 0, inputs)
    report(size, "mix", folder, "prepare", "mix", "--data", "data", "--out", "mixture")


def record(task: str, number: int) -> dict[str, object]:
    """A record of five turns."""
    turns = []
    for turn in range(TURNS):
        turns += [
            {"from": "human", "value": QUESTION.format(turn)},
            {"from": "gpt", "value": f"answer {number}"},
        ]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    return {"id": f"{task}-{number}", "image": f"pictures/{number:012d}.jpg", "conversations": turns}


def report(size: int, step: str, folder: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> None:
    """Runs a command, which ends with one of these exit codes, and prints its row."""
    before = written(folder)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode in codes, done.stderr
    seconds = time.perf_counter() - start
    cpu, kib = map(float, done.stderr.split()[-2:])
    new = written(folder) - before
    print(f"{size:>9,} {step:<8} {seconds:>8.1f} {cpu:>7.1f} {kib / 1024:>9.0f} {new:>11.0f}", flush=True)


def written(folder: Path) -> float:
    """Megabytes of the files below a folder; 0 for that of the empty run."""
    return sum(path.stat().st_size for path in folder.rglob("*.json*")) / 1e6 if folder != Path.cwd() else 0.0


if __name__ == "__main__":
    main()
