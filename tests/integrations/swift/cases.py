"""The runs of ms-swift that the tests look at, and how they are started."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.integrations.swift.world import WEIGHTS, World
from tests.ports import torchrun

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "integrations" / "swift" / "cotbal_plugin.py"
# SGD, which shows a wrong factor, at a rate that moves the parameters.
_COMMON = """
    --torch_dtype float32 --check_model false --add_version false --report_to none --save_strategy no
    --per_device_train_batch_size 2 --gradient_accumulation_steps 3 --num_train_epochs 1 --logging_steps 1
    --learning_rate 0.01 --optim sgd --lr_scheduler_type constant --max_grad_norm 0 --weight_decay 0
    --split_dataset_ratio 0 --dataloader_num_workers 0 --dataset_num_proc 1 --lora_dropout 0
    --load_from_cache_file false --use_cpu true
"""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: also of its files.
        words: arguments after the common ones, the last of a kind counts.
        kind: "text", "experts", "vision" or "qwen_vl".
        plugin: what `--external_plugins` gets; None: ms-swift as it is.
        stage: of ms-swift.
        data: files in the place of the world's.
    """

    name: str
    words: str = "--tuner_type full"
    kind: str = "text"
    plugin: Path | None = PLUGIN
    stage: str = "sft"
    data: tuple[Path, ...] = ()

    def arguments(self, world: World, folder: Path) -> list[str]:
        model, of_type = {
            "text": (world.text, "qwen2"),
            "experts": (world.experts, "qwen3_moe"),
            "vision": (world.vision, "llava1_5_hf"),
            "qwen_vl": (world.qwen_vl, "qwen2_5_vl"),
        }[self.kind]
        template = of_type if self.kind in ("vision", "qwen_vl") else "chatml"
        plugin = [] if self.plugin is None else ["--external_plugins", str(self.plugin)]
        data = self.data or [world.data(task, self.kind) for task in WEIGHTS]
        words = self.words.format(folder=folder).split()
        return [
            *("--model", str(model), "--model_type", of_type, "--template", template),
            *("--output_dir", str(folder / self.name), "--dataset", *map(str, data)),
            *(*plugin, *_COMMON.split(), *words),
        ]


def environment(world: World) -> dict[str, str]:
    """Without a GPU or a hub, the caches in the world's folder, weights and pictures named."""
    away = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    caches = {"MODELSCOPE_CACHE": str(world.folder / "cache"), "HF_HOME": str(world.folder / "hf")}
    named = {"COTBAL_WEIGHTS": str(world.weights), "ROOT_IMAGE_DIR": str(world.folder / "images")}
    return os.environ | away | caches | named


def run_cases(
    world: World, folder: Path, cases: Iterable[Case], ranks: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """What each case came to, by rank. ms-swift as it is goes first: the plugin stays in a process."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(cases, key=lambda case: case.plugin is not None)
    listed = [
        {"name": case.name, "stage": case.stage, "arguments": case.arguments(world, folder)}
        for case in ordered
    ]
    (folder / "cases.json").write_text(json.dumps(listed))
    module = ["-m", "tests.integrations.swift.launch", str(folder / "cases.json"), str(folder)]
    launcher = torchrun(ranks) if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, *module], cwd=ROOT, env=environment(world), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return {
        case.name: [torch.load(folder / f"{case.name}.{rank}.pt") for rank in range(ranks)]
        for case in ordered
    }


def errors(ranks: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The largest relative error of a step's loss and of its gradient from Eq. 2 over all ranks."""
    losses, gradients = [], []
    for parts in zip(*(rank["steps"] for rank in ranks), strict=True):
        denominator = sum(part["denominator"] for part in parts)
        loss = sum(part["numerator"] for part in parts) / denominator
        gradient = sum(part["gradient"] for part in parts) / denominator
        # The routers' own, of which each rank has a mean.
        loss = loss + sum(part["router"] for part in parts) / len(parts)
        gradient = gradient + sum(part["router_gradient"] for part in parts) / len(parts)
        came = sum(sum(part["losses"]) for part in parts) / len(parts)
        losses.append(abs(came - loss) / loss)
        gradients += [float((part["trained"] - gradient).norm() / gradient.norm()) for part in parts]
    return max(losses), max(gradients)
