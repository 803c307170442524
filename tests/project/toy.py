"""A project whose models count their samples: seconds for a whole estimate, with a journal of all starts.

A file `script` beside the YAML tells a command to misbehave: {"<run> [on <task>]": {"kind": times}}.
"""

import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

SIZES = {"a": 64, "b": 96, "c": 40, "chat": 10}


def content(folder, **changes):
    """The YAML of the toy as Python values."""
    python = f"{sys.executable} -S {Path(__file__).resolve()}"
    return {
        "output": "out",
        "base_model": "none",
        "mini_ratio": "1/8",
        "tasks": {
            "a": {"train": "a.json", "validation": "val.jsonl"},
            "b": {"train": ["b.jsonl"], "validation": "val.jsonl", "metric": "EM"},
            "c": {"train": "c.json", "validation": "val.jsonl"},
            "chat": {"train": "chat.json", "weight": 1.5},
        },
        "train": {"command": f"{python} train {{run}} {{data}} {{output}} {{seed}} {{weights}}"},
        "evaluate": {"command": f"{python} score {{run}} {{model}} {{task}} {{scores}}"},
        "resources": {"slots": 2, "retries": 0},
        **changes,
    }


def write(folder, **changes):
    """Writes data and YAML; returns the YAML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, size in SIZES.items():
        records = [
            {"id": f"{task}{i}", "conversations": [{"from": "human", "value": "é"}]} for i in range(size)
        ]
        (folder / f"{task}.json").write_text(json.dumps(records, indent=2))
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{task}.jsonl").write_text(lines)
    (folder / "val.jsonl").write_text("{}\n" * 20)
    path = folder / "toy.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(content(folder, **changes), indent=1))
    return path


def starts(folder):
    """How often each command has started."""
    journal = folder / "journal"
    return Counter(journal.read_text().splitlines()) if journal.exists() else Counter()


def _note(name):
    with open("journal", "a") as journal:
        journal.write(name + "\n")
    print(f"this is {name}", flush=True)
    if _mates():
        Path("crowded").write_text(f"{name} started beside {_mates()}")
    script = json.loads(Path("script").read_text()) if Path("script").exists() else {}
    time.sleep(script.get("nap", 0))
    times = starts(Path())[name]
    return {kind for kind, number in script.get(name, {}).items() if times <= number}


def _mates():
    """What else runs for this run: nothing of an earlier try may."""
    mark, own = f"COTBAL_RUN={os.environ['COTBAL_RUN']}".encode(), (os.getpid(), os.getppid())
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes().split(b"\0") and int(file.parent.name) not in own:
                found.append(int(file.parent.name))
    return found


def _train(run, data, output, seed, weights):
    how = _note(run)
    if "fails" in how:
        sys.exit(3)
    if "empty" in how:
        return
    text = Path(data).read_text()
    records = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    model = {
        "counts": Counter(record["task"] for record in records),
        "seed": int(seed),
        "weights": _weights(json.loads(Path(weights).read_text())),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "found": sorted(path.name for path in Path(output).iterdir()),
    }
    Path(output, "model.json").write_text(json.dumps(model))


def _weights(given):
    """Those of a file; of a rule that changes them something that tells rules apart."""
    return given["weights"] if "weights" in given else dict.fromkeys(given["tasks"], len(given["rule"]) / 4)


def _score(run, model, task, scores, data=None):
    how = _note(f"{run} on {task}")
    if "fails" in how:
        sys.exit("no such question")
    if "silent" in how:
        return
    if "truncated" in how:
        Path(scores).write_text('{"score": 0.5, "items": [0.5, ')
        return
    model = json.loads(Path(model, "model.json").read_text())
    weights = model.get("weights", {})
    counts = {other: count * weights.get(other, 1.0) for other, count in model["counts"].items()}
    score = sum(count**0.5 * (1.0 if other == task else 0.2) for other, count in counts.items()) / 20
    # Another file has other questions.
    count = 3 if data is None else len(Path(data).read_text().splitlines())
    score += 0.0 if data is None else count / 1000
    items = [score + 0.02 * place / (count - 1) - 0.01 for place in range(count)]
    content = {"score": score, "items": items, "clusters": [0, *range(count - 1)]}
    if "doubled" in how:
        content |= {"items": items * 2, "clusters": [*range(2 * count)]}
    if "bare" in how:
        content = {"score": score}
    Path(scores).write_text(json.dumps(content))


if __name__ == "__main__":
    {"train": _train, "score": _score}[sys.argv[1]](*sys.argv[2:])
