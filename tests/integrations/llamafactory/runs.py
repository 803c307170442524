"""Runs of the real LLaMA-Factory in processes of their own."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.integrations.llamafactory.world import PICTURED
from tests.ports import torchrun

WEIGHTS = {"vqa": 4.0, "caption": 0.25, "chat": 1.0}
_TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Case:
    """A yaml, by what it has besides or in place of the common one."""

    name: str
    kind: str = "llama"
    n_ranks: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self, world: Path, out: Path) -> dict[str, Any]:
        names = [task + ("_img" if self.kind in PICTURED else "") for task in WEIGHTS]
        chosen = {
            "model_name_or_path": str(world / self.kind),
            "template": self.kind if self.kind in PICTURED else "default",
            "dataset_dir": str(world),
            "media_dir": str(world),
            "dataset": ",".join(names),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "cutoff_len": 1024,
            "output_dir": str(out),
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "max_steps": 4,
            "learning_rate": 0.05,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "cotbal_weights": dict(zip(names, WEIGHTS.values(), strict=True)),
        }
        return {key: value for key, value in (chosen | self.options).items() if value is not None}


def train(case: Case, world: Path, folder: Path, mode: str = "ours") -> subprocess.CompletedProcess[str]:
    """Runs a case; `folder / "out"` is LLaMA-Factory's output, `folder / "steps"` the recording.

    Args:
        case: what is trained.
        world: the folder of `make_world`.
        folder: of this run.
        mode: "ours", or "stock", which is run without our keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = case.settings(world, folder / "out")
    if mode == "stock":
        settings = {key: value for key, value in settings.items() if not key.startswith("cotbal_")}
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(settings))
    words = ["-m", "tests.integrations.llamafactory.record", mode, str(folder / "steps"), "train", str(path)]
    return run([*torchrun(case.n_ranks), *words] if case.n_ranks > 1 else words, folder)


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of this Python, offline and with a cache of its own."""
    own = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **own, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
