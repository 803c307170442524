"""Calls of the vocabulary-parallel losses, whole or cut into pieces, and what comes of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import cotbal
from cotbal.losses import vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy
from tests.tolerances import FLOOR, RELATIVE, assert_close, assert_losses_close

IGNORE = -100
# The cuts of V = 120 columns.
EVEN = {1: (0, 120), 2: (0, 60, 120), 4: (0, 30, 60, 90, 120)}
UNEVEN = {2: (0, 119, 120), 4: (0, 7, 50, 51, 120)}


@dataclass(frozen=True)
class Call:
    """A call of a loss and of its backward pass.

    Attributes:
        features: logits (B, S, V), or hidden (B, S, D), weight (V, D) and bias (V,) or None.
        arguments: labels, task ids and task weights, as far as given.
        options: keywords of the loss.
        upstream: the gradient from above, or None for 1.
        cuts: where the pieces of the vocabulary start and end; None: it is not cut.
        vocab_range: whether the call says where its piece is.
    """

    features: tuple[Tensor | None, ...]
    arguments: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)
    upstream: Tensor | None = None
    cuts: tuple[int, ...] | None = None
    vocab_range: bool = False

    @property
    def is_linear(self) -> bool:
        return len(self.features) > 1

    def piece(self, rank: int) -> "Call":
        """What a rank calls."""
        assert self.cuts is not None
        columns = slice(self.cuts[rank], self.cuts[rank + 1])
        first, *head = self.features
        assert first is not None
        features = (first, *(None if each is None else each[columns] for each in head))
        if not self.is_linear:
            features = (first[..., columns],)
        options = dict(self.options)
        if self.vocab_range:
            options["vocab_range"] = (self.cuts[rank], self.cuts[-1])
        return replace(self, features=features, options=options)

    def double(self) -> "Call":
        """The same in float64 by the reference."""

        def double(value: Any) -> Any:
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

        options = {name: double(value) for name, value in self.options.items() if name != "memory_budget"}
        return replace(
            self,
            # The reference multiplies what stands in ignored rows by 0.
            features=tuple(None if each is None else each.double().nan_to_num() for each in self.features),
            arguments=tuple(double(each) for each in self.arguments),
            options=options | {"impl": "reference"},
            upstream=double(self.upstream),
        )


@dataclass(frozen=True)
class Outcome:
    """The loss, its statistics or None, the gradients in the features and in the task weights."""

    loss: Tensor
    stats: tuple[Tensor, ...] | None
    gradients: tuple[Tensor | None, ...]
    task_gradient: Tensor | None


def outcome(call: Call) -> Outcome:
    """What comes of a call, here."""
    features = [None if each is None else each.clone().requires_grad_() for each in call.features]
    arguments = [each.clone() for each in call.arguments]
    if len(arguments) == 3:
        arguments[2].requires_grad_()
    losses = (
        (cotbal.gtw_cross_entropy, cotbal.linear_gtw_cross_entropy),
        (vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy),
    )
    function = losses[call.cuts is not None][call.is_linear]
    options = dict(call.options)
    if call.is_linear:
        options["bias"] = features.pop()
    got = function(*features, *arguments, **options)
    loss, stats = got if isinstance(got, tuple) else (got, None)
    loss.backward(call.upstream)
    if call.is_linear:
        features.append(options["bias"])
    return Outcome(
        loss.detach(),
        None if stats is None else tuple(stats),
        tuple(None if each is None else each.grad for each in features),
        arguments[2].grad if len(arguments) == 3 else None,
    )


def assert_same(one: Tensor | None, other: Tensor | None) -> None:
    """To the bit."""
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def joined(call: Call, outcomes: list[Outcome]) -> Outcome:
    """The pieces put together; what every rank has is the same to the bit."""
    first = outcomes[0]
    for each in outcomes[1:]:
        assert_same(first.loss, each.loss)
        assert_same(first.task_gradient, each.task_gradient)
        for one, other in zip(first.stats or (), each.stats or (), strict=True):
            assert_same(one, other)
        if call.is_linear:
            assert_same(first.gradients[0], each.gradients[0])
    if not call.is_linear:
        gradients = (torch.cat([each.gradients[0] for each in outcomes], -1),)
        return replace(first, gradients=gradients)
    heads = zip(*(each.gradients[1:] for each in outcomes), strict=True)
    whole = (None if pieces[0] is None else torch.cat(pieces) for pieces in heads)
    return replace(first, gradients=(first.gradients[0], *whole))


def assert_outcomes_close(actual: Outcome, expected: Outcome, call: Call, roundings: int = 1) -> None:
    """Within the table's tolerances; `roundings` is how often expected gradients were rounded."""
    first = call.features[0]
    assert first is not None
    dtype = first.dtype
    logits = first
    if call.is_linear:
        logits = torch.nn.functional.linear(first.double(), call.features[1].double()).to(dtype)
        # Logits are rounded to 16 bits before the loss, so is their gradient before the products.
        roundings += 1
    logits = logits.nan_to_num(posinf=0.0, neginf=0.0)
    scale = len(call.arguments[0].flatten()) * 4.0 if call.options.get("reduction") == "sum" else 1.0
    if call.is_linear and dtype == torch.bfloat16:
        assert_close(actual.loss, expected.loss, RELATIVE[dtype], RELATIVE[dtype] * scale)
    else:
        assert_losses_close(actual.loss, expected.loss, logits, scale)
    for one, other in zip(actual.gradients, expected.gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert_close(one, other, roundings * RELATIVE[dtype], roundings * FLOOR[dtype])


def call_of(level: str, dtype: torch.dtype, *, seed: int = 0, **options: Any) -> Call:
    """V = 120, D = 16, 2 x 7 rows of 3 tasks, of which some are ignored and hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(120, (2, 7), generator=generator)
    labels[0, :5] = torch.tensor([0, 59, 60, 119, IGNORE])
    labels[1, 3] = IGNORE
    task_ids = torch.randint(3, (2, 7), generator=generator)
    task_weights = torch.tensor([0.5, 2.0, 1.25], dtype=dtype if dtype == torch.float64 else torch.float32)
    hidden = torch.randn(2, 7, 16, generator=generator)
    weight, bias = torch.randn(120, 16, generator=generator), torch.randn(120, generator=generator)
    logits = 2 * torch.randn(2, 7, 120, generator=generator)
    if level == "linear":
        logits = torch.nn.functional.linear(hidden, weight, bias)
        options = {"memory_budget": 1} | options
    # Two rows that are top-1 correct.
    labels[1, :2] = logits[1, :2].argmax(-1)
    if not options.get("shift"):
        hidden[labels == IGNORE] = torch.nan
    features = (hidden, weight, bias) if level == "linear" else (logits,)
    return Call(tuple(each.to(dtype) for each in features), (labels, task_ids, task_weights), options)


def several_options() -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(9)
    class_weights = 2 * torch.rand(120, generator=generator)
    class_weights[::5] = 0.0
    token_weights = 0.5 + torch.rand(2, 7, generator=generator)
    token_weights[1, 0] = 0.0
    everything = {"label_smoothing": 0.2, "z_loss": 0.1, "softcap": 4.0, "class_weights": class_weights}
    return {
        "plain": {},
        "statistics": {"return_stats": True},
        "smoothing": {"label_smoothing": 0.2},
        "z-loss": {"z_loss": 0.1},
        "softcap": {"softcap": 4.0},
        "class weights": {"class_weights": class_weights},
        "token weights": {"token_weights": token_weights},
        "denominator": {"denominator": torch.tensor(7.0)},
        "sum": {"reduction": "sum", **everything},
        "everything": {**everything, "return_stats": True, "shift": True, "token_weights": token_weights},
    }
