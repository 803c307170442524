"""What every loss of a benchmark is given: the case that names it, and tensors made from its seed alone."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE = -100
TASKS = 8
KINDS = ("random", "peaked", "confident")
# By how much a confident label leads the next logit: its probability rounds to 1 in float32.
MARGIN = 20.0
# A peaked row: logits of this deviation hold most of the mass on a few classes, the label added to them.
_PEAKED_DEVIATION, _PEAKED_LABEL = 5.0, 15.0


@dataclass(frozen=True)
class Case:
    """One shape of one benchmark.

    Attributes:
        level: "logits" or "linear".
        rows: N.
        vocabulary: V.
        width: D, 0 at the level of logits.
        share: share of valid rows.
        kind: of logits: "random", "peaked" (a trained model's) or "confident" (the label leads by 20).
        upstream: gradient that reaches the loss.
        frozen_head: whether the head needs no gradient (linear level only).
        dtype: name of the dtype of logits, or of hidden states and head.
    """

    level: str
    rows: int
    vocabulary: int
    width: int = 0
    share: float = 0.2
    kind: str = "random"
    upstream: float = 1.0
    frozen_head: bool = False
    dtype: str = "bfloat16"

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what a step returns."""
        if self.level == "logits":
            return ("loss", "logits")
        return ("loss", "hidden") if self.frozen_head else ("loss", "hidden", "weight")

    def __str__(self) -> str:
        shape = f"{self.rows} x {self.vocabulary}" + (f" x {self.width}" if self.width else "")
        words = [self.level, shape, f"{self.share:.0%} valid", self.kind, f"upstream {self.upstream:g}"]
        return ", ".join([*words, *(["frozen head"] if self.frozen_head else []), self.dtype])


@dataclass(frozen=True)
class LossInputs:
    """Tensors of a case.

    Attributes:
        case: what they were made for.
        features: the logits (R, V), or hidden states (R, D) and head (V, D).
        labels: (R,) int64.
        task_ids: (R,) int64.
        task_weights: (TASKS,) float32.
        row_scale: (R,) float32, w_r / denominator, 0 at ignored rows: a rival's weights, made beforehand, so
            that the lookup costs it nothing.
        denominator: 0-d float32, sum_r w_r.
        valid_count: the number of valid rows, known to the host as it is in a data collator.
        upstream: 0-d float32.
    """

    case: Case
    features: tuple[Tensor, ...]
    labels: Tensor
    task_ids: Tensor
    task_weights: Tensor
    row_scale: Tensor
    denominator: Tensor
    valid_count: int
    upstream: Tensor


def make_inputs(case: Case, device: torch.device | str = "cpu") -> LossInputs:
    """The tensors of `case` on `device`: the same bits each time on one device."""
    generator = torch.Generator(device).manual_seed(0)
    labels = torch.randint(case.vocabulary, (case.rows,), generator=generator, device=device)
    # Exactly this many, spread evenly: every share has its own count, and none is empty.
    valid_count = max(1, round(case.share * case.rows))
    order = torch.randperm(case.rows, generator=generator, device=device)
    labels[order[valid_count:]] = IGNORE
    task_ids = torch.randint(TASKS, (case.rows,), generator=generator, device=device)
    task_weights = 0.25 + torch.rand(TASKS, generator=generator, device=device)
    weights = task_weights[task_ids] * (labels != IGNORE)
    denominator = weights.double().sum().float()
    make = _logits if case.level == "logits" else _hidden_and_head
    features = make(case, labels.clamp(min=0), generator)
    return LossInputs(
        case=case,
        features=tuple(
            feature.requires_grad_(not (case.frozen_head and place == 1))
            for place, feature in enumerate(features)
        ),
        labels=labels,
        task_ids=task_ids,
        task_weights=task_weights,
        row_scale=weights / denominator,
        denominator=denominator,
        valid_count=valid_count,
        upstream=torch.tensor(case.upstream, device=device),
    )


def unweighted(inputs: LossInputs) -> LossInputs:
    """The same inputs with every task weight 1: what a loss without weights computes."""
    valid = (inputs.labels != IGNORE).float()
    return replace(
        inputs,
        task_weights=torch.ones_like(inputs.task_weights),
        row_scale=valid / valid.sum(),
        denominator=valid.sum(),
    )


def _logits(case: Case, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    logits = _normal((case.rows, case.vocabulary), case, generator)
    column = labels[:, None]
    if case.kind == "peaked":
        logits.mul_(_PEAKED_DEVIATION)
        logits.scatter_(1, column, logits.gather(1, column) + _PEAKED_LABEL)
    elif case.kind == "confident":
        logits.scatter_(1, column, logits.amax(dim=1, keepdim=True) + MARGIN)
    return (logits,)


def _hidden_and_head(case: Case, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    # Rows of about unit length, so that the logits of normal hidden states have deviation 1.
    head = _normal((case.vocabulary, case.width), case, generator) / case.width**0.5
    hidden = _normal((case.rows, case.width), case, generator)
    if case.kind == "peaked":
        hidden = _PEAKED_DEVIATION * hidden + _PEAKED_LABEL * head[labels]
    elif case.kind == "confident":
        hidden = _leading_by_margin(head, labels).to(hidden.dtype)
    return hidden, head


def _leading_by_margin(head: Tensor, labels: Tensor) -> Tensor:
    """Hidden states (R, D) along the label's row of the head, so long that it leads by the margin."""
    own = head.double()[labels]
    products = own @ head.double().t()
    column = labels[:, None]
    lead = products.gather(1, column) - products.scatter(1, column, -torch.inf).amax(dim=1, keepdim=True)
    return own * (MARGIN / lead.clamp(min=0.1))


def _normal(shape: tuple[int, int], case: Case, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=case.torch_dtype)
