"""The vocabulary-parallel losses on 2 and 4 real processes, against the single process and float64."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import cotbal
from cotbal.losses import vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy
from tests.ranks import Ranks
from tests.tolerances import FLOOR, LOSS, RELATIVE, assert_close, assert_losses_close

IGNORE = -100
WORLDS = (2, 4)
IMPL_DTYPES = [
    ("torch", torch.float64),
    ("torch", torch.float32),
    ("torch", torch.bfloat16),
    ("triton", torch.float32),
    ("triton", torch.bfloat16),
]
every_level = pytest.mark.parametrize("level", ["logits", "linear"])
fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
# The cuts of V = 120 columns.
EVEN = {2: (0, 60, 120), 4: (0, 30, 60, 90, 120)}
UNEVEN = {2: (0, 119, 120), 4: (0, 7, 50, 51, 120)}


@pytest.fixture(scope="module", params=WORLDS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


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
        assert torch.equal(one, other)


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


def run(ranks: Ranks, call: Call) -> Outcome:
    """The outcome of a call that is cut into pieces for the ranks."""
    outcomes = ranks.run(outcome, [call.piece(rank) for rank in range(len(ranks.processes))])
    for each in outcomes:
        if isinstance(each, ValueError):
            raise each
    return joined(call, outcomes)


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
    if not options.get("shift"):
        hidden[labels == IGNORE] = torch.nan
    options = {"memory_budget": 1} | options if level == "linear" else options
    features = (
        (hidden, weight, bias) if level == "linear" else (2 * torch.randn(2, 7, 120, generator=generator),)
    )
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


@every_level
@pytest.mark.parametrize(("impl", "dtype"), IMPL_DTYPES)
@pytest.mark.parametrize("options", several_options().values(), ids=several_options().keys())
def test_the_ranks_give_what_one_process_gives(
    ranks: Ranks, level: str, impl: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    call = call_of(level, dtype, impl=impl, **options)
    n_ranks = len(ranks.processes)
    got = run(ranks, replace(call, cuts=UNEVEN[n_ranks], vocab_range=True))
    alone, exact = outcome(call), outcome(call.double())
    assert_outcomes_close(got, alone, call, roundings=2)
    assert_outcomes_close(got, exact, call)
    tolerance = RELATIVE[dtype] if level == "linear" else LOSS[dtype]
    # A difference of losses.
    assert_close(got.task_gradient, alone.task_gradient, tolerance, tolerance * alone.loss.abs().item())
    assert (got.stats is None) == ("return_stats" not in options)
    if got.stats is not None:
        assert_close(got.stats[0], alone.stats[0], tolerance)
        assert [each.tolist() for each in got.stats[1:]] == [each.tolist() for each in alone.stats[1:]]


@every_level
@fast_impl
def test_equal_pieces_need_no_range(ranks: Ranks, level: str, impl: str) -> None:
    call = call_of(level, torch.float32, impl=impl)
    cuts = EVEN[len(ranks.processes)]
    by_default = run(ranks, replace(call, cuts=cuts))
    said = run(ranks, replace(call, cuts=cuts, vocab_range=True))
    assert_outcomes_close(by_default, outcome(call), call, roundings=2)
    assert_same(by_default.loss, said.loss)


@every_level
@fast_impl
def test_each_row_with_its_own_gradient_from_above(ranks: Ranks, level: str, impl: str) -> None:
    """The linear level exchanges numbers in the backward pass then."""
    call = call_of(level, torch.float32, impl=impl, reduction="none", label_smoothing=0.1)
    call = replace(call, upstream=torch.rand(2, 7, generator=torch.Generator().manual_seed(1)))
    got = run(ranks, replace(call, cuts=UNEVEN[len(ranks.processes)], vocab_range=True))
    assert got.loss.shape == (2, 7)
    assert_outcomes_close(got, outcome(call), call, roundings=2)
    assert_outcomes_close(got, outcome(call.double()), call)


@every_level
def test_chunks_are_the_same_on_every_rank(ranks: Ranks, level: str) -> None:
    """200 rows in chunks of 64, whatever the size of a piece; other budgets give the same numbers."""
    generator = torch.Generator().manual_seed(0)
    call = call_of(level, torch.float32, impl="torch")
    features = torch.randn(200, 16, generator=generator), *call.features[1:]
    if level == "logits":
        features = (torch.randn(200, 120, generator=generator),)
    call = replace(call, features=features, arguments=(torch.randint(120, (200,), generator=generator),))
    budgets = [1, "min", 100 * 4 * 128, None] if level == "linear" else [None]
    for budget in budgets:
        if level == "linear":
            call = replace(call, options={"impl": "torch", "memory_budget": budget})
        got = run(ranks, replace(call, cuts=UNEVEN[len(ranks.processes)], vocab_range=True))
        assert_outcomes_close(got, outcome(call), call, roundings=2)


@fast_impl
def test_a_rank_whose_whole_piece_is_minus_infinity(ranks: Ranks, impl: str) -> None:
    cuts = EVEN[len(ranks.processes)]
    for start, stop in pairwise(cuts):
        call = call_of("logits", torch.float32, impl=impl, return_stats=True)
        call.features[0][..., start:stop] = -torch.inf
        labels = call.arguments[0]
        labels[(labels >= start) & (labels < stop)] = stop % 120
        got, alone = run(ranks, replace(call, cuts=cuts)), outcome(call)
        assert_outcomes_close(got, alone, call)
        assert got.loss.isfinite()
        assert torch.equal(got.stats[2], alone.stats[2])


@every_level
@fast_impl
def test_nothing_valid(ranks: Ranks, level: str, impl: str) -> None:
    """Loss 0 and gradient 0, with the graph: no rank waits for another."""
    call = call_of(level, torch.float32, impl=impl)
    call.arguments[0].fill_(IGNORE)
    got = run(ranks, replace(call, cuts=EVEN[len(ranks.processes)]))
    assert got.loss.item() == 0
    assert all((each == 0).all() for each in got.gradients)
    assert (got.task_gradient == 0).all()


@every_level
@fast_impl
@pytest.mark.parametrize("label", [120, -1])
def test_a_label_out_of_range_raises_on_every_rank(ranks: Ranks, level: str, impl: str, label: int) -> None:
    call = call_of(level, torch.float32, impl=impl)
    call.arguments[0][1, 2] = label
    call = replace(call, cuts=EVEN[len(ranks.processes)])
    got = ranks.run(outcome, [call.piece(rank) for rank in range(len(ranks.processes))])
    assert all(isinstance(each, ValueError) and "labels" in str(each) for each in got), got


@every_level
@pytest.mark.parametrize("wrong", ["unequal", "overlapping", "one V each", "rows"])
def test_pieces_that_do_not_fit_raise_on_every_rank(ranks: Ranks, level: str, wrong: str) -> None:
    """With a label that only the ranks with large pieces think possible."""
    n_ranks = len(ranks.processes)
    call = call_of(level, torch.float32, impl="torch")
    call.arguments[0][0, 0] = 119
    call = replace(call, cuts=UNEVEN[n_ranks] if wrong == "unequal" else EVEN[n_ranks])
    calls = [call.piece(rank) for rank in range(n_ranks)]
    if wrong == "rows":
        features = calls[0].features[0][:1], *calls[0].features[1:]
        calls[0] = replace(calls[0], features=features, arguments=(calls[0].arguments[0][:1],))
    for rank in range(n_ranks):
        told = {"overlapping": (0, 120), "one V each": (call.cuts[rank], 120 + rank)}.get(wrong)
        if told is not None:
            calls[rank] = replace(calls[rank], options=calls[rank].options | {"vocab_range": told})
    got = ranks.run(outcome, calls)
    assert all(isinstance(each, ValueError) and "vocab_range" in str(each) for each in got), got


def backward_twice(call: Call) -> tuple[Tensor, Tensor]:
    features = [None if each is None else each.clone().requires_grad_() for each in call.features]
    if call.is_linear:
        *two, bias = features
        loss = vocab_parallel_linear_gtw_cross_entropy(*two, call.arguments[0], bias=bias, **call.options)
    else:
        loss = vocab_parallel_gtw_cross_entropy(features[0], call.arguments[0], **call.options)
    (once,) = torch.autograd.grad(2 * loss, features[:1], retain_graph=True)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(loss, features[:1], create_graph=True)
    (twice,) = torch.autograd.grad(4 * loss, features[:1])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    return once, twice


@every_level
@fast_impl
def test_backward_twice(ranks: Ranks, level: str, impl: str) -> None:
    call = replace(call_of(level, torch.float32, impl=impl), cuts=EVEN[len(ranks.processes)])
    for once, twice in ranks.run(backward_twice, [call.piece(rank) for rank in range(len(ranks.processes))]):
        assert torch.equal(2 * once, twice)
        assert once.abs().sum() > 0


def under_compile(call: Call) -> str:
    compiled = torch.compile(vocab_parallel_gtw_cross_entropy, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"torch.compile|Unsupported|Observed exception") as raised:
        compiled(call.features[0], call.arguments[0])
    return str(raised.value)


def test_what_is_not_supported_says_so(ranks: Ranks) -> None:
    n_ranks = len(ranks.processes)
    call = replace(call_of("linear", torch.float32, impl="torch"), cuts=EVEN[n_ranks])
    for options, words in [
        ({"impl": "reference"}, "reference"),
        ({"accumulate_weight_grad": True}, "accumulate"),
    ]:
        wrong = replace(call, options=call.options | options)
        got = ranks.run(outcome, [wrong.piece(rank) for rank in range(n_ranks)])
        assert all(isinstance(each, ValueError) and words in str(each) for each in got), got


def test_without_a_process_group() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        vocab_parallel_gtw_cross_entropy(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
