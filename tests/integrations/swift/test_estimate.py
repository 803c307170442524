"""The recipe for ms-swift from data to weights: its own commands, ms-swift's own trainings, a tiny LLaVA."""

import contextlib
import csv
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cotbal.cli.main import app
from cotbal.integrations.checkpoints import newest_checkpoint
from cotbal.project import recipe_files
from tests.cli.watching import wait_until
from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from tests.integrations.swift.cases import ROOT, environment
from tests.integrations.swift.records import llava_records, questions, write_lines
from tests.integrations.swift.world import World

# Warnings of ms-swift and what it imports.
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
RECIPE = next(path for path in recipe_files() if path.name == "swift.yaml")
# What tiny needs: no GPU, no hub's name that tells the type, answers learned by heart, checkpoints often.
TINY = """
    --use_cpu true --check_model false --model_type llava1_5_hf
    --torch_dtype float32 --fp16 false --bf16 false
    --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --learning_rate 1e-2 --save_steps 10
    --dataloader_num_workers 0
"""


def test_every_word_of_the_training_is_understood() -> None:
    """By ms-swift's own arguments; that their values go together is shown by the trainings."""
    from swift.arguments import SftArguments

    words = _words(_recipe()["train"]["command"])
    before, after = words[: words.index("swift")], words[words.index("swift") :]
    assert [word.partition("=")[0] for word in before] == [
        "NPROC_PER_NODE",
        "MASTER_PORT",
        "ROOT_IMAGE_DIR",
        "COTBAL_WEIGHTS",
    ]
    assert after[:2] == ["swift", "sft"]
    options = [word for word in after if word.startswith("--") and word != "--checkpoint"]
    assert {option[2:] for option in options} <= set(SftArguments.__dataclass_fields__)
    assert len(set(options)) == len(options)
    assert json.loads(after[after.index("--columns") + 1]) == {"task": "channel"}


def test_every_word_of_the_evaluation_is_understood() -> None:
    from cotbal.integrations.swift import generate

    asking, scoring = _recipe()["evaluate"]["command"].split("&&")
    words = _words(asking)
    assert words[:2] == ["torchrun", "--nproc_per_node"]
    options = generate._parser().parse_args(words[words.index("cotbal.integrations.swift.generate") + 1 :])
    assert (options.model, str(options.questions), str(options.out)) == (
        "model",
        "data",
        "output/answers.jsonl",
    )
    verb = typer.main.get_command(app).commands["score"]
    parsed = verb.make_context("score", _words(scoring)[2:]).params
    assert {str(parsed[name]) for name in ("questions", "predictions", "scores", "metric")} == {
        "data",
        "output/answers.jsonl",
        "scores",
        "metric",
    }


def test_from_data_to_weights(world: World, tmp_path: Path) -> None:
    """Killed within a training and started again, it goes on from its checkpoint and repeats nothing."""
    path = _project(world, tmp_path / "project")
    out, cotbal = path.parent / "estimate-swift", [sys.executable, "-m", "cotbal"]
    run: dict[str, Any] = {"cwd": ROOT, "env": _environment(world, tmp_path / "bin"), "text": True}
    first = subprocess.Popen([*cotbal, "run", str(path)], start_new_session=True, **run, stdout=-1, stderr=-1)
    wait_until(lambda: _within(out), first, seconds=300)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}

    again = subprocess.run([*cotbal, "run", str(path)], capture_output=True, **run)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-4000:]
    assert finished
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    results = [json.loads(path.read_text()) for path in out.glob("runs/*/result.json")]
    assert len(results) == 9
    assert [each["name"] for each in results if each["result"].get("resumed")]

    rows = {row["run"]: row for row in csv.DictReader((out / "scores.csv").read_text().splitlines())}
    # One of eight answers is in the mini subset, all or six are in a task's own data.
    assert {run for run in rows if run != "transform"} == {"mini", "vqa", "caption"}
    assert float(rows["vqa"]["vqa"]) > float(rows["caption"]["caption"]) > float(rows["mini"]["caption"])
    weights = json.loads((out / "weights.json").read_text())["weights"]
    assert set(weights) == {"vqa", "caption", "chat"}
    assert weights["chat"] == 1.0 != weights["vqa"] != weights["caption"]


def _recipe() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    return content


def _words(template: str) -> list[str]:
    """The words of a command whose placeholders stand as their names."""
    doubled = template.replace("{{", "\0").replace("}}", "\1")
    return shlex.split(doubled.replace("{", "").replace("}", "").replace("\0", "{").replace("\1", "}"))


def _project(world: World, folder: Path) -> Path:
    """The recipe with the world's tasks, on two slots without a GPU."""
    folder.mkdir()
    (folder / "images").symlink_to(world.folder / "images")
    for task in ("vqa", "caption", "chat"):
        records = llava_records(world, task, "vision")
        (folder / f"{task}.json").write_text(json.dumps(records[:6] if task == "caption" else records))
        write_lines(folder / f"{task}_val.jsonl", questions(world, task, "vision"))
    content = _recipe()
    for part in ("train", "evaluate"):
        content[part]["command"] = content[part]["command"].replace("{gpus}", "1")
    content["train"]["command"] += " ".join(["", *TINY.split()])
    content["train"] |= {"batch_size": 4, "epochs": 40}
    tasks: dict[str, Any] = {
        task: {"train": f"{task}.json", "validation": f"{task}_val.jsonl", "metric": "EM"}
        for task in ("vqa", "caption")
    }
    content |= {
        "base_model": str(world.vision),
        "mini_ratio": "1/8",
        "tasks": tasks | {"chat": {"train": "chat.json", "weight": 1.0}},
        "resources": {"slots": 2},
    }
    path = folder / "swift.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _environment(world: World, folder: Path) -> dict[str, str]:
    """This Python's commands first in the path; torchrun lies in the environment beneath it."""
    folder.mkdir()
    for name, module in (("torchrun", "torch.distributed.run"), ("cotbal", "cotbal"), ("python", "")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {"-m " + module if module else ""} "$@"\n')
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return environment(world) | {"PATH": path}


def _within(out: Path) -> bool:
    """Whether a run has ended, and a training has not that has a checkpoint."""
    for path in out.glob("outputs/*"):
        newest = newest_checkpoint(path)
        if newest is not None and not (out / "runs" / path.name / "result.json").exists():
            # It may be deleted meanwhile.
            with contextlib.suppress(OSError):
                state = json.loads((newest / "trainer_state.json").read_text())
                if state["global_step"] < state["max_steps"]:
                    return any(out.glob("runs/*/result.json"))
    return False
