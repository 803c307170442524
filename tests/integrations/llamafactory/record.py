"""A training by the real LLaMA-Factory, ours or stock, and what each of its optimizer steps was made of.

python -m tests.integrations.llamafactory.record ours|stock <folder> train my.yaml
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from llamafactory.train import tuner
from llamafactory.train.callbacks import LogCallback
from transformers import Trainer

from cotbal.integrations.llamafactory.entry import main

# What each optimizer step was made of, in order.
steps: list[dict[str, Any]] = []


class Recorder(LogCallback):
    """In place of theirs: the parameters before each step, and its gradients."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        own = getattr(model, "module", model)
        values = {name: value.detach().clone() for name, value in own.state_dict().items()}
        steps.append({"parameters": values, "batches": [], "gradients": {}})

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        own = getattr(model, "module", model)
        steps[-1]["gradients"] = {
            name: each.grad.clone() for name, each in own.named_parameters() if each.grad is not None
        }


def record(mode: str, folder: Path, words: list[str]) -> int:
    training_step = Trainer.training_step

    def stepped(trainer: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        kept = {k: v.detach().clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        steps[-1]["batches"].append({k: v for k, v in kept.items() if not k.startswith("cotbal_")})
        return training_step(trainer, model, inputs, *args, **kwargs)

    Trainer.training_step, tuner.LogCallback = stepped, Recorder
    if mode == "ours":
        code = main(words)
    else:
        sys.argv[1:] = words[1:]
        tuner.run_exp()
        code = 0
    if code == 0:
        folder.mkdir(parents=True, exist_ok=True)
        rank = os.environ.get("RANK", "0")
        torch.save(steps, folder / f"rank{rank}.pt")
    return code


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(record(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
