"""What the user declares of one task: where its results lie, in which format, by which metric."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from cotbal.collect.scoring import TASK_METRICS
from cotbal.estimate.transforms import checked_transforms

# The formats whose answers are scored here, so that the task's name tells the metric.
OWN_SCORES = ("predictions", "llava", "visatb")
# Options that every format has, and what they mean.
COMMON = {
    "format": "who wrote the files",
    "from": "what the results are found by in a run's folder: a file, a glob, or the tool's name of the data",
    "metric": "the metric's name, as the format has it; the paper's by default where cotbal scores its task",
    "better": "higher, reciprocal (1/m) or complement:BOUND (BOUND - m)",
    "items": "no: take the tool's own score alone, where that is no mean over items",
}


@dataclass(frozen=True)
class Source:
    """The results of one task, in every run's folder alike.

    Attributes:
        task: whose score they are. A task of several validation sets has one source per set.
        format: a key of `FORMATS`.
        name: the option "from".
        metric: its name in that format.
        better: "higher", "reciprocal" or "complement: BOUND"; None where the format itself declares it.
        items: False takes the tool's own score alone.
        options: what else the format is told.
    """

    task: str
    format: str
    name: str
    metric: str
    better: str | None = None
    items: bool = True
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.better in (None, "higher"):
            return
        try:
            transform = checked_transforms({self.task: str(self.better)}, [self.task])[self.task]
        except ValueError:
            raise ValueError(
                f"{self}: better: expected higher, reciprocal or complement:BOUND, got {self.better!r}"
            ) from None
        object.__setattr__(self, "better", transform)

    def __str__(self) -> str:
        return f"task {self.task!r}"

    def check_options(self, known: Mapping[str, str]) -> None:
        """Raise ValueError for an option that the format does not have, with those that it has."""
        for name in self.options:
            if name not in known:
                close = get_close_matches(name, [*known, *COMMON], n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                have = "; ".join(f"{key}: {text}" for key, text in known.items()) or "none of its own"
                raise ValueError(
                    f"{self}: format {self.format!r} has no option {name!r}{hint}; it has {have}"
                )

    def required(self, name: str) -> str:
        """Return an option's value; ValueError if it was not given."""
        if name not in self.options:
            raise ValueError(f"{self}: format {self.format!r} needs the option {name}=...")
        return self.options[name]


def parse_source(text: str) -> Source:
    """Return the source that `TASK: format=... from=... metric=... OPTION=...` declares.

    Values with blanks stand in quotes, as in a shell. The metric of a task of the paper is known, where its
    answers are scored here.

    Raises:
        ValueError: no task, a word that is no `option=value`, an option twice, a missing one.

    Example:
        >>> parse_source("VQAv2: format=lmms-eval from=vqav2_val metric=exact_match").name
        'vqav2_val'
    """
    # A task may have a colon in its name: its options begin with a word that is one.
    found = re.match(r"(.*?):(?=\s*\w[\w-]*=)(.*)", text, re.DOTALL)
    task, rest = found.groups() if found else text.partition(":")[::2]
    if not (task.strip() and ":" in text):
        raise ValueError(f"--task: expected 'TASK: format=... from=... metric=...', got {text!r}")
    task = task.strip()
    options: dict[str, str] = {}
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise ValueError(f"task {task!r}: {error} in {rest.strip()!r}") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ValueError(f"task {task!r}: expected option=value, got {word!r}")
        if name in options:
            raise ValueError(f"task {task!r}: option {name!r} stands twice; keep one")
        options[name] = value
    if options.get("format") in OWN_SCORES and task in TASK_METRICS:
        options.setdefault("metric", TASK_METRICS[task])
    if missing := [name for name in ("format", "from", "metric") if name not in options]:
        raise ValueError(f"task {task!r}: missing {', '.join(f'{name}=...' for name in missing)}")
    items = options.pop("items", None)
    if items not in (None, "no"):
        raise ValueError(f"task {task!r}: items: expected 'no' or nothing, got {items!r}")
    return Source(
        task,
        options.pop("format"),
        options.pop("from"),
        options.pop("metric"),
        options.pop("better", None),
        items is None,
        options,
    )
