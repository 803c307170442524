"""A run that reports to TensorBoard, read back from its event files and drawn as one picture of four panels.

python -m tests.integrations.huggingface.curves OUT trains for some seconds and writes OUT/curves.png.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cotbal.balancing import Weighting, by_name
from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from tests.integrations.huggingface.training import VOCABULARY, Record, arguments, pad, tiny_model

# Easy from the start, to be learned, not to be learned.
TASKS = ("repeat", "count", "noise")
KEYS = {
    "task_loss": "loss (nats per token)",
    "task_accuracy": "accuracy",
    "task_tokens": "tokens per logging step",
    "task_weight": "weight",
}
# Step and value of each point, by tag.
Curves = dict[str, list[tuple[int, float]]]


def task_records(n: int) -> list[Record]:
    """`n` records of each task, three prompt tokens and 5 to 20 to train on."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(n * len(TASKS)):
        task = TASKS[index % len(TASKS)]
        length = int(torch.randint(8, 24, (1,), generator=generator))
        drawn = torch.randint(3, VOCABULARY, (length,), generator=generator)
        if task == "repeat":
            drawn = drawn[:1].expand(length)
        elif task == "count":
            drawn = (drawn[0] - 3 + torch.arange(length)) % (VOCABULARY - 3) + 3
        ids = drawn.tolist()
        made.append({"input_ids": ids, "labels": [-100] * 3 + ids[3:], "task": task})
    return made


def train(folder: Path, steps: int, weighting: Weighting, logging_steps: int) -> CoTBalTrainer:
    """Trains a tiny model that reports to event files somewhere under `folder`."""
    args = arguments(
        folder,
        batch=4,
        accumulation=2,
        steps=steps,
        optim="adamw_torch",
        learning_rate=3e-3,
        logging_steps=logging_steps,
        report_to=["tensorboard"],
    )
    trainer = CoTBalTrainer(
        tiny_model(),
        args,
        train_dataset=task_records(400),
        data_collator=TaskCollator(pad, TASKS),
        weights=weighting,
    )
    trainer.train()
    return trainer


def read(folder: Path) -> Curves:
    """Every scalar in the one event file under `folder`."""
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def draw(curves: Curves, path: Path) -> None:
    """One panel for each of KEYS, a line for each task."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    for (key, label), axes in zip(KEYS.items(), figure.subplots(2, 2, sharex=True).flat, strict=True):
        for task in TASKS:
            axes.plot(*zip(*curves[f"train/{key}/{task}"], strict=True), label=task)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.supxlabel("optimizer step")
    figure.savefig(path, dpi=120)


def main(folder: Path) -> None:
    # For so small a model threads only wait for each other.
    torch.set_num_threads(1)
    train(folder, 300, by_name("dwa", window=15, temperature=0.5), logging_steps=5)
    draw(read(folder), folder / "curves.png")
    print(folder / "curves.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
