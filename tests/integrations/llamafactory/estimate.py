"""A project of tiny tasks whose commands are those of the recipe, and `cotbal` started on it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cotbal.project import recipe_files

RECIPE = next(path for path in recipe_files() if path.name == "llamafactory.yaml")
# What a tiny model on a CPU needs in place of the recipe's words.
TRAINING = {
    "{gpus}": "1",
    "template=qwen2_vl": "template=default",
    "per_device_train_batch_size=8 gradient_accumulation_steps=4": "per_device_train_batch_size=4",
    "learning_rate=1e-5": "learning_rate=0.003",
    "bf16=true": "use_cpu=true",
    "save_steps=500": "save_steps=4",
    "preprocessing_num_workers=8 dataloader_num_workers=4": "disable_gradient_checkpointing=true",
}
EVALUATION = {"{gpus}": "1", "--batch-size 16": "--batch-size 16 --max-new-tokens 6 --workers 0"}
# Of each task, so that what a model has not seen it does not know.
_N_QUESTIONS = 16
TASKS = ("vqa", "caption", "chat")


def write_project(folder: Path, model: Path) -> Path:
    """The file of a project with two tasks to weight and one of a fixed weight; its data beside it."""
    for task in TASKS:
        facts = [(f"[{task}] q{n}?", f"w{n * 7 % 40}") for n in range(_N_QUESTIONS)]
        _write(folder / f"{task}.json", [_record(task, *fact) for fact in facts])
        questions = [
            {"question_id": n, "text": text, "answer": answer, "task": task}
            for n, (text, answer) in enumerate(facts)
        ]
        (folder / f"{task}.jsonl").write_text("\n".join(json.dumps(each) for each in questions))
    (folder / "images").mkdir()
    content: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    weighted = {
        task: {"train": f"{task}.json", "validation": f"{task}.jsonl", "metric": "EM"}
        for task in ("vqa", "caption")
    }
    content["tasks"] = weighted | {"chat": {"train": "chat.json", "weight": 1.0}}
    content["output"], content["base_model"], content["mini_ratio"] = "out", str(model), "1/4"
    content["train"]["command"] = _changed(content["train"]["command"], TRAINING)
    content["evaluate"]["command"] = _changed(content["evaluate"]["command"], EVALUATION)
    content["train"] |= {"batch_size": 4, "epochs": 30}
    content["on_unidentified"], content["resources"] = "drop", {"slots": 2}
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _record(task: str, question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": question, "conversations": turns}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _changed(command: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        assert command.count(old) == 1, old
        command = command.replace(old, new)
    return command


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`cotbal` with this Python and its torchrun, whatever this environment is stacked on."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    for name, module in (("torchrun", "torch.distributed.run"), ("cotbal", "cotbal.cli")):
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
