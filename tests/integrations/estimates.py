"""A project of tiny tasks whose commands are a recipe's, and `cotbal` on it, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cotbal.project import recipe_files

# Of each task, so that what a model has not seen it does not know.
_N_QUESTIONS = 16
_WAIT_SECONDS = 300
TASKS = ("vqa", "caption", "chat")


def recipe(name: str) -> dict[str, Any]:
    """The content of a recipe."""
    path = next(path for path in recipe_files() if path.name == name)
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def write_project(
    folder: Path,
    content: dict[str, Any],
    model: Path,
    training: Mapping[str, str],
    evaluation: Mapping[str, str],
    images: Path | None = None,
) -> Path:
    """The file of a project with two tasks to weight and one of a fixed weight; its data beside it.

    Args:
        folder: where to.
        content: of a recipe.
        model: that its trainings begin with.
        training: what a tiny model on a CPU needs in place of words of its training.
        evaluation: likewise of its evaluation.
        images: a folder of pictures, `0.png`, `2.png` to `10.png`, for the tasks with a weight.
    """
    for task in TASKS:
        facts = [(f"[{task}] q{n}?", f"w{n * 7 % 40}") for n in range(_N_QUESTIONS)]
        pictured = [
            {"image": f"{2 * (n % 6)}.png"} if images and task != "chat" else {} for n in range(_N_QUESTIONS)
        ]
        records = [_record(*fact) | picture for fact, picture in zip(facts, pictured, strict=True)]
        for record in records:
            record["conversations"][0]["value"] = "<image>\n" * ("image" in record) + record["id"]
        (folder / f"{task}.json").write_text(json.dumps(records))
        questions = [
            {"question_id": n, "text": text, "answer": answer, "task": task, **pictured[n]}
            for n, (text, answer) in enumerate(facts)
        ]
        (folder / f"{task}.jsonl").write_text("\n".join(json.dumps(each) for each in questions))
    if images is None:
        (folder / "images").mkdir()
    else:
        (folder / "images").symlink_to(images)
    weighted = {
        task: {"train": f"{task}.json", "validation": f"{task}.jsonl", "metric": "EM"}
        for task in ("vqa", "caption")
    }
    content["tasks"] = weighted | {"chat": {"train": "chat.json", "weight": 1.0}}
    content["output"], content["base_model"], content["mini_ratio"] = "out", str(model), "1/4"
    content["train"]["command"] = _changed(content["train"]["command"], training)
    content["evaluate"]["command"] = _changed(content["evaluate"]["command"], evaluation)
    content["train"] |= {"batch_size": 4, "epochs": 30, "format": "json"}
    content["on_unidentified"], content["resources"] = "drop", {"slots": 2}
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _record(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": question, "conversations": turns}


def _changed(command: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        assert command.count(old) == 1, old
        command = command.replace(old, new)
    return command


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`cotbal` with this Python and its torchrun, whatever this environment is stacked on."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name, module in (("torchrun", "torch.distributed.run"), ("cotbal", "cotbal")):
        (binaries / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (binaries / name).chmod(0o755)
    own = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [binaries / "cotbal", *words],
        cwd=folder,
        env=os.environ | own | {"PATH": f"{binaries}:/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_killed_estimate(folder: Path, project: Path, resumed: str) -> None:
    """From data to weights and the final model, killed within a training: nothing is repeated.

    Args:
        folder: the project's.
        project: the file of it.
        resumed: what the training that was cut off says when it goes on.
    """
    out = folder / "out"
    driver = start(folder, "run", str(project))
    cut = _wait_for_a_checkpoint_beside_a_finished_run(out)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    finished = _results(out)
    assert finished
    assert cut not in finished
    for words in (["run", str(project)], ["train", str(project)]):
        driver = start(folder, *words)
        printed, _ = driver.communicate()
        assert driver.returncode == 0, printed
    results = _results(out)
    assert {key: results[key] for key in finished} == finished
    assert resumed in (out / "runs" / cut / "log.txt").read_text()
    header, mini, *probes = (out / "scores.csv").read_text().split()
    assert header == "run,caption,vqa"
    assert [row.split(",")[0] for row in (mini, *probes)] == ["mini", "caption", "vqa"]
    # Each model knows what it was trained on, and of the rest little.
    assert all(float(score) < 0.6 for score in mini.split(",")[1:]), mini
    own = [float(row.split(",")[header.split(",").index(row.split(",")[0])]) for row in probes]
    assert min(own) > 0.9, probes
    weights = json.loads((out / "weights.json").read_text())["weights"]
    assert set(weights) == set(TASKS)
    assert weights["chat"] == 1.0
    final = json.loads((out / "finals.json").read_text())["methods"]["CoTBal"]["0"]
    assert final["weights"] == weights
    assert min(final["scores"].values()) > 0.9, final


def _wait_for_a_checkpoint_beside_a_finished_run(out: Path) -> str:
    """The key of a training that has written one, when another run is finished."""
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        finished = _results(out)
        for state in out.glob("outputs/*/checkpoint-*/trainer_state.json"):
            if finished and state.parts[-3] not in finished:
                return state.parts[-3]
        time.sleep(0.02)
    raise AssertionError("no training was caught between its first checkpoint and its end")


def _results(out: Path) -> dict[str, int]:
    """When each run's result was written, by key."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
