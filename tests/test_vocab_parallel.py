"""The vocabulary-parallel losses on 2 and 4 real processes, against the single process and float64."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cotbal.losses import vocab_parallel_gtw_cross_entropy, vocab_parallel_linear_gtw_cross_entropy
from tests.ranks import Ranks
from tests.tolerances import LOSS, RELATIVE, assert_close
from tests.vocab_calls import (
    EVEN,
    IGNORE,
    UNEVEN,
    Call,
    Outcome,
    assert_outcomes_close,
    assert_same,
    call_of,
    joined,
    outcome,
    several_options,
)

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


@pytest.fixture(scope="module", params=WORLDS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


def run(ranks: Ranks, call: Call) -> Outcome:
    """The outcome of a call that is cut into pieces for the ranks."""
    outcomes = ranks.run(outcome, [call.piece(rank) for rank in range(len(ranks.processes))])
    for each in outcomes:
        if isinstance(each, ValueError):
            raise each
    return joined(call, outcomes)


def several_calls() -> Iterator[Any]:
    """Every option by itself in float64 and by the kernels in float32; all of them in every dtype."""
    for name, options in several_options().items():
        dtypes = IMPL_DTYPES if name == "everything" else [IMPL_DTYPES[0], IMPL_DTYPES[3]]
        for impl, dtype in dtypes:
            yield pytest.param(impl, dtype, options, id=f"{name}-{impl}-{dtype}")


@every_level
@pytest.mark.parametrize(("impl", "dtype", "options"), list(several_calls()))
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


@fast_impl
def test_a_row_that_is_given_an_infinite_gradient(ranks: Ranks, impl: str) -> None:
    """A class of probability 0 has none of it, as in a single process."""
    call = call_of("linear", torch.float32, impl=impl, reduction="none")
    hidden, head, bias = call.features
    bias = bias.index_fill(0, torch.tensor([7, 100]), -1e4)
    upstream = torch.ones(2, 7).index_fill(1, torch.tensor(2), torch.inf)
    call = replace(call, features=(hidden, head, bias), upstream=upstream)
    got, alone = run(ranks, replace(call, cuts=EVEN[len(ranks.processes)])), outcome(call)
    assert not got.gradients[1][[7, 100]].any()
    for one, other in zip(got.gradients, alone.gradients, strict=True):
        assert torch.equal(one.isnan(), other.isnan())


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


def in_half_of_the_ranks(call: Call, rank: int, n_ranks: int) -> Outcome:
    """Two groups at work side by side, as beside data parallelism."""
    half = n_ranks // 2
    groups = [dist.new_group(list(range(start, start + half))) for start in (0, half)]
    call = replace(call, options=call.options | {"group": groups[rank // half]})
    return outcome(call.piece(rank % half))


@every_level
def test_a_group_of_some_ranks(ranks: Ranks, level: str) -> None:
    n_ranks = len(ranks.processes)
    cuts = EVEN[n_ranks // 2]
    call = call_of(level, torch.float32, impl="torch", label_smoothing=0.1)
    other = call_of(level, torch.float32, impl="torch", label_smoothing=0.1, seed=1)
    pairs = [replace(each, cuts=cuts) for each in (call, other) for _ in range(n_ranks // 2)]
    got = ranks.run(in_half_of_the_ranks, pairs, list(range(n_ranks)), [n_ranks] * n_ranks)
    for each, outcomes in ((call, got[: n_ranks // 2]), (other, got[n_ranks // 2 :])):
        assert_outcomes_close(joined(each, outcomes), outcome(each), each, roundings=2)


def with_frozen_parts(call: Call, frozen: int) -> tuple[Tensor, list[Tensor | None]]:
    features = [each.clone().requires_grad_(place != frozen) for place, each in enumerate(call.features)]
    *two, bias = features
    loss = vocab_parallel_linear_gtw_cross_entropy(*two, *call.arguments, bias=bias, **call.options)
    loss.backward()
    with torch.no_grad():
        again = vocab_parallel_linear_gtw_cross_entropy(*two, *call.arguments, bias=bias, **call.options)
    assert torch.equal(loss, again)
    return loss.detach(), [each.grad for each in features]


@fast_impl
@pytest.mark.parametrize("frozen", [0, 1, 2], ids=["input", "head", "bias"])
def test_what_is_frozen_gets_no_gradient(ranks: Ranks, impl: str, frozen: int) -> None:
    n_ranks = len(ranks.processes)
    call = replace(call_of("linear", torch.float32, impl=impl, valid_count=13), cuts=EVEN[n_ranks])
    everything = ranks.run(outcome, [call.piece(rank) for rank in range(n_ranks)])
    got = ranks.run(with_frozen_parts, [call.piece(rank) for rank in range(n_ranks)], [frozen] * n_ranks)
    for (loss, gradients), expected in zip(got, everything, strict=True):
        assert_same(loss, expected.loss)
        for place, gradient in enumerate(gradients):
            assert_same(gradient, None if place == frozen else expected.gradients[place])


def under_compile(call: Call) -> None:
    compiled = torch.compile(vocab_parallel_gtw_cross_entropy, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"not under torch\.compile"):
        compiled(*call.features, *call.arguments)


def test_what_is_not_supported_says_so(ranks: Ranks) -> None:
    n_ranks = len(ranks.processes)
    call = replace(call_of("linear", torch.float32, impl="torch"), cuts=EVEN[n_ranks])
    for options, words in [
        ({"impl": "reference"}, "reference"),
        ({"accumulate_weight_grad": True}, "accumulate"),
        ({"vocab_range": 120}, "vocab_range: expected (start, V), two ints, got 120"),
        ({"vocab_range": (False, 120)}, "vocab_range: expected (start, V), two ints, got (False, 120)"),
        # As a DeviceMesh has it.
        ({"group": SimpleNamespace(get_group=None)}, "got SimpleNamespace; pass its .get_group()"),
    ]:
        wrong = replace(call, options=call.options | options)
        got = ranks.run(outcome, [wrong.piece(rank) for rank in range(n_ranks)])
        assert all(isinstance(each, ValueError) and words in str(each) for each in got), got


def test_not_under_compile(ranks: Ranks) -> None:
    call = replace(call_of("logits", torch.float32), cuts=EVEN[len(ranks.processes)])
    # A rank's ValueError comes back as a result.
    got = ranks.run(under_compile, [call.piece(rank) for rank in range(len(ranks.processes))])
    assert got == [None] * len(ranks.processes)


@fast_impl
def test_rows_that_overlap(impl: str) -> None:
    """Column strides of such logits are 1, but not of a tensor that torch makes like them."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        logits = torch.randn(20).unfold(0, 16, 1).requires_grad_()
        labels = torch.tensor([3, 0, 15, IGNORE, 7])
        # NumPy's ints are ints.
        options = {"impl": impl, "vocab_range": (np.int64(0), np.int32(16))}
        (got,) = torch.autograd.grad(vocab_parallel_gtw_cross_entropy(logits, labels, **options), logits)
    finally:
        dist.destroy_process_group()
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)
    assert_close(got, expected, RELATIVE[torch.float32])


def test_without_a_process_group() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        vocab_parallel_gtw_cross_entropy(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))


def test_torch_func_is_refused() -> None:
    """Before a group is asked for: one rank alone may not leave the others waiting."""
    logits, head, labels = torch.randn(2, 4), torch.randn(4, 4), torch.tensor([0, 1])
    losses = (
        lambda values: vocab_parallel_gtw_cross_entropy(values, labels),
        lambda values: vocab_parallel_linear_gtw_cross_entropy(logits, values, labels),
    )
    for loss, at in zip(losses, (logits, head), strict=True):
        with pytest.raises(NotImplementedError, match=r"use torch\.autograd\.grad"):
            torch.func.grad(loss)(at)
