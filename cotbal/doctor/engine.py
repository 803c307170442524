"""The comparison under DeepSpeed's real engine, in a process of its own: `python -m cotbal.doctor.engine`."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotbal.doctor.compare import Comparison, Pass, compare
from cotbal.doctor.locks import abandoned_locks
from cotbal.doctor.models import load_batch, load_model, random_batch
from cotbal.files import json_object

_SECONDS = 900
# Of the engine's own output, when it fails.
_LAST_LINES = 15


class Engine:
    """A DeepSpeed engine as a `Runner`; its optimizer has a learning rate of 0."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._holds_gradients = False

    def __call__(self, **batch: Any) -> Any:
        """The model's outputs."""
        return self.engine(**batch)

    def backward(self, loss: Tensor) -> None:
        """Makes the gradients, in the engine's own way."""
        self.engine.backward(loss)
        self._holds_gradients = True

    def gradients(self) -> dict[str, Tensor]:
        """Each parameter's whole gradient, gathered, on the CPU."""
        from deepspeed.utils import safe_get_full_grad

        found = {
            name: safe_get_full_grad(p)
            for name, p in self.engine.module.named_parameters()
            if p.requires_grad
        }
        return {name: gradient.cpu().clone() for name, gradient in found.items() if gradient is not None}

    def clear(self) -> None:
        """Ends the step, which at a learning rate of 0 changes nothing but the gradients."""
        if self._holds_gradients:
            self.engine.step()
        self._holds_gradients = False


def compare_under_deepspeed(
    config: str | Path, model: str | Path | None = None, batch: str | Path | None = None, level: str = "auto"
) -> Comparison:
    """`compare` with both losses run by DeepSpeed's engine, one rank in a process of its own.

    Args:
        config: DeepSpeed's configuration, as the Trainer takes it: values may be "auto". Its optimizer,
            scheduler, batch size and accumulation are left out.
        model: as for `load_model`.
        batch: as for `load_batch`; None for a random one.
        level: "auto", "linear" or "logits".

    Raises:
        ModuleNotFoundError: DeepSpeed is not installed.
        OSError: no such file.
        ValueError: not a JSON object, a lock that the engine would wait for, or it failed; the message ends
            with its last lines.
    """
    if find_spec("deepspeed") is None:
        raise ModuleNotFoundError(
            'the check needs deepspeed: pip install "path/to/cotbal[deepspeed]"', name="deepspeed"
        )
    if locks := abandoned_locks():
        raise ValueError("; ".join(locks))
    content = json_object(config, "DeepSpeed's configuration", "pass the file that the Trainer takes")
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        asked = {"config": content, "model": _text(model), "batch": _text(batch), "level": level}
        request.write_text(json.dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "cotbal.doctor.engine", str(request), str(result)],
            env=os.environ | _environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-_LAST_LINES:])
            raise ValueError(f"the check under DeepSpeed failed: {last}")
        found = json.loads(result.read_text(encoding="utf-8"))
    passes = tuple(Pass(**each) for each in found["passes"])
    return Comparison(found["level"], found["reason"], found["tolerance"], passes)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _environment() -> dict[str, str]:
    """One rank, and an engine that does not build its own optimizers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    found = {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return found if torch.cuda.is_available() else {**found, "DS_ACCELERATOR": "cpu"}


def _complete(config: dict[str, Any], rows: int) -> tuple[Any, Any]:
    """The configuration with what a check of one batch needs; "auto" as the Trainer fills it in."""
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    left_out = ("optimizer", "scheduler", "train_batch_size", "gradient_accumulation_steps", "flops_profiler")
    kept = {key: value for key, value in config.items() if key not in left_out}
    kept |= {"train_micro_batch_size_per_gpu": rows, "gradient_accumulation_steps": 1}
    kept |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    found = HfTrainerDeepSpeedConfig(kept)
    precision = {name: bool(config.get(name, {}).get("enabled") is True) for name in ("bf16", "fp16")}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=rows,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            **precision,
        )
    found.trainer_config_process(arguments)
    return found, arguments


def _compare(asked: Mapping[str, Any]) -> Comparison:
    import deepspeed

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Else it compiles collectives in shared memory, for a minute and with a compiler; gloo has its own.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if on_gpu else "gloo")
    rows = 2 if asked["batch"] is None else len(load_batch(asked["batch"])["labels"])
    # While this object lives, ZeRO-3 splits a model as it is loaded.
    config, arguments = _complete(asked["config"], rows)
    model = load_model(asked["model"])
    config.trainer_config_finalize(arguments, model, num_training_steps=1)
    batch = random_batch(model) if asked["batch"] is None else load_batch(asked["batch"])
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(trained, lr=0.0), config=config.config
    )
    return compare(model, batch, asked["level"], Engine(engine))


def _main(request: str, result: str) -> None:
    found = _compare(json.loads(Path(request).read_text(encoding="utf-8")))
    Path(result).write_text(json.dumps(found.to_json()), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
