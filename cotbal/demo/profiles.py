"""The demo's sizes: how many conversations, how long the training, which tasks. No heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

MINI, FULL = "mini", "full"
# One evaluation batch costs about as much as this many training steps; progress is counted in training steps.
EVALUATION_BATCH_COST = 3
# A step of the vision heads costs about a quarter of a training step.
HEAD_STEPS_PER_STEP = 4


@dataclass(frozen=True)
class Profile:
    """One size of the demo.

    Attributes:
        name: its name on the command line.
        tasks: the weighted tasks, in order.
        fixed: tasks that take no part in the estimate, with their weight.
        metrics: the metric of every task, the fixed ones included.
        conversations: training conversations of every task, the fixed ones included.
        epochs: passes over the data of a run.
        mini_ratio: share of each weighted task's conversations in its mini subset.
        evaluation_items: questions per task and evaluation split.
        head_steps: steps of the base stage's first part, the vision heads; 0 without a base stage.
        alignment_steps: steps of the base stage's second part, the dense descriptions.
        hidden, vision_hidden, layers: sizes of the model.
    """

    name: str
    tasks: tuple[str, ...]
    fixed: Mapping[str, float]
    metrics: Mapping[str, str]
    conversations: Mapping[str, int]
    epochs: int
    mini_ratio: float
    evaluation_items: int
    head_steps: int = 400
    alignment_steps: int = 700
    base_scenes: int = 8000
    batch_size: int = 32
    head_batch_size: int = 64
    head_learning_rate: float = 8e-3
    evaluation_batch: int = 200
    learning_rate: float = 1.5e-3
    warmup: float = 0.05
    hidden: int = 96
    vision_hidden: int = 64
    layers: int = 2
    all_tasks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_tasks", (*self.tasks, *self.fixed))

    @property
    def has_base(self) -> bool:
        """Whether runs start from a trained base model, not from random weights."""
        return self.alignment_steps > 0

    def size(self, task: str, share: str) -> int:
        """Conversations in a share of a task, at least 1.

        Args:
            task: the task.
            share: "full", "mini", or a fraction between them such as "1/4".
        """
        ratio = {MINI: self.mini_ratio, FULL: 1.0}.get(share)
        return max(1, round(self.conversations[task] * (float(Fraction(share)) if ratio is None else ratio)))

    def run_size(self, data: Mapping[str, str]) -> int:
        """Conversations of a mixture `{task: share}`.

        Raises:
            ValueError: a task or a share that the profile does not have, or no task at all.
        """
        if not data:
            raise ValueError("data must name at least one task, got {}")
        for task, share in data.items():
            if task not in self.conversations:
                raise ValueError(
                    f"data names task {task!r}; profile {self.name} has {', '.join(self.all_tasks)}"
                )
            if share not in (MINI, FULL) and not _is_fraction(share):
                raise ValueError(
                    f"data[{task!r}] must be 'full', 'mini' or a fraction such as '1/4', got {share!r}"
                )
        return sum(self.size(task, share) for task, share in data.items())

    def training_steps(self, data: Mapping[str, str]) -> int:
        """Optimizer steps of a run on a mixture; the last batch of an epoch may be short."""
        return self.epochs * -(-self.run_size(data) // self.batch_size)


def _is_fraction(share: str) -> bool:
    try:
        return 0 < Fraction(share) < 1
    except (ValueError, ZeroDivisionError):
        return False


_TASKS = ("caption", "vqa", "rel", "chart", "ocr", "regcap", "bbox")
_METRICS = {
    "caption": "CIDEr",
    "vqa": "EM",
    "rel": "EM",
    "chart": "EM",
    "ocr": "EM",
    "regcap": "CIDEr",
    "bbox": "IoU",
    "chat": "EM",
}
# Half of chart's or bbox's size makes their probe hardly better than the mini run, and C explodes.
_CONVERSATIONS = {
    "caption": 480,
    "vqa": 560,
    "rel": 560,
    "chart": 320,
    "ocr": 480,
    "regcap": 400,
    "bbox": 800,
    "chat": 320,
}


def _digits(name: str, epochs: int) -> Profile:
    return Profile(
        name=name,
        tasks=_TASKS,
        fixed={"chat": 1.0},
        metrics=_METRICS,
        conversations=_CONVERSATIONS,
        epochs=epochs,
        mini_ratio=1 / 8,
        evaluation_items=400,
    )


PROFILES: dict[str, Profile] = {
    "quick": _digits("quick", 6),
    "full": _digits("full", 8),
    # For tests of the machinery: CIDEr credits a sentence's form, which even this model learns at once.
    "micro": Profile(
        name="micro",
        tasks=("caption", "regcap"),
        fixed={"chat": 1.0},
        metrics={task: _METRICS[task] for task in ("caption", "regcap", "chat")},
        conversations={"caption": 96, "regcap": 96, "chat": 64},
        epochs=8,
        mini_ratio=1 / 16,
        evaluation_items=100,
        head_steps=0,
        alignment_steps=0,
        batch_size=16,
        learning_rate=8e-3,
        hidden=48,
        vision_hidden=16,
        layers=1,
    ),
}


def get_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]


def steps(settings: Mapping[str, Any]) -> int:
    """The length of a run, known before it starts, in units of about one training step.

    Args:
        settings: as `cotbal.demo.job.run` takes them.
    """
    profile = get_profile(settings["profile"])
    if settings["kind"] == "base":
        return head_units(profile) + profile.alignment_steps
    batches = len(settings["evaluate"]) * evaluation_batches(profile)
    return profile.training_steps(settings["data"]) + batches * EVALUATION_BATCH_COST


def head_units(profile: Profile) -> int:
    """The units that the base stage's vision heads count for."""
    return profile.head_steps // HEAD_STEPS_PER_STEP


def evaluation_batches(profile: Profile) -> int:
    """Batches of one task's evaluation."""
    return -(-profile.evaluation_items // profile.evaluation_batch)
