"""Every option of the loss on logits, alone and with all the others, equals its formula in float64."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cotbal
from tests.laws.cases import IGNORE, Case, cases, everywhere
from tests.laws.options import Allowed, Options, class_weights, exact, option_cases
from tests.tolerances import LOSS, assert_close, assert_gradients_close, assert_losses_close

# These run the kernel several times an example, and much of it is in the first law already.
half_as_often = settings(max_examples=settings.default.max_examples // 2)
seldom = settings(max_examples=settings.default.max_examples // 4)
WEIGHTS = torch.tensor([0.5, 1.25, 3.0, 0.0, 2.0, 0.75, 1.5])
ALONE = {
    "label_smoothing": Options(label_smoothing=0.1),
    "label_smoothing of 1": Options(label_smoothing=1.0),
    "z_loss": Options(z_loss=0.01),
    "softcap": Options(softcap=3.0),
    "class_weights": Options(class_weights=WEIGHTS),
    "class_weights in a sum": Options(class_weights=WEIGHTS, reduction="sum"),
    "class_weights in rows": Options(class_weights=WEIGHTS, reduction="none"),
    "class_weights under a denominator": Options(class_weights=WEIGHTS, denominator=torch.tensor(3.0)),
    "shift": Options(shift=True),
    "ignore_index": Options(ignore_index=6),
}


@dataclass(frozen=True)
class Outcome:
    """What one call gave: the loss, the gradients (None where none was asked for) and the statistics."""

    loss: Tensor
    logits_gradient: Tensor
    weights_gradient: Tensor | None
    stats: cotbal.TaskStats | None


def outcome_of(case: Case, o: Options, impl: str, upstream: Tensor | None = None, **more: object) -> Outcome:
    """Runs the loss and its backward; `more` may hold `task_weights`, a leaf."""
    logits = case.logits.detach().clone().requires_grad_()
    task_weights = more.pop("task_weights", case.task_weights)
    got = cotbal.gtw_cross_entropy(
        logits,
        case.labels,
        case.task_ids,
        task_weights,
        token_weights=case.token_weights,
        impl=impl,
        **o.arguments,
        **more,
    )
    loss, stats = got if more.get("return_stats") else (got, None)
    loss.backward(torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype))
    return Outcome(loss.detach(), logits.grad, task_weights.grad, stats)


def small_case(dtype: torch.dtype) -> Case:
    """Two samples of four tokens, seven classes, three tasks of which one weighs nothing."""
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(2, 4, 7, generator=generator)).to(dtype)
    labels = torch.tensor([[0, IGNORE, 2, 4], [6, 3, IGNORE, 6]])
    task_ids = torch.tensor([[0, 0, 1, 1], [2, 0, 1, 1]])
    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return Case(logits, labels, task_ids, torch.tensor([0.5, 2.0, 0.0], dtype=weight_dtype), None)


def in_dtype_of(case: Case, o: Options) -> Options:
    tensors = {"class_weights": o.class_weights, "denominator": o.denominator}
    dtype = case.task_weights.dtype
    return o.replace(**{name: None if value is None else value.to(dtype) for name, value in tensors.items()})


def assert_equals_the_formula(case: Case, o: Options, impl: str, upstream: Tensor) -> None:
    """Loss, gradients in logits and task weights, and statistics, each against float64."""
    logits = case.logits.double().clone().requires_grad_()
    task_weights = case.task_weights.double().clone().requires_grad_()
    expected = exact(logits, case, o, task_weights)
    expected.loss.backward(upstream.expand_as(expected.loss))
    allowed = Allowed(expected, upstream, case.logits.dtype)
    leaf = case.task_weights.clone().requires_grad_()
    got = outcome_of(case, o, impl, upstream.expand_as(expected.loss), task_weights=leaf)
    assert got.loss.dtype == leaf.dtype
    assert_close(got.loss, expected.loss, 0, allowed.loss())
    error = (got.logits_gradient.double() - logits.grad).abs()
    assert (error <= allowed.slopes().amax(-1, keepdim=True)).all()
    assert (got.logits_gradient[expected.scale == 0] == 0).all()
    assert_close(got.weights_gradient, task_weights.grad, 0, allowed.task_weights())


@everywhere
@given(st.data())
def test_any_options_equal_the_formula(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case, o = data.draw(option_cases(dtype))
    upstream = torch.tensor(data.draw(st.sampled_from([1.0, 0.25, -3.0])), dtype=torch.float64)
    if o.reduction == "none":
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
        upstream = torch.randn(case.labels.shape, generator=generator).double()
    assert_equals_the_formula(case, o, impl, upstream)


@everywhere
@pytest.mark.parametrize("name", ALONE)
def test_an_option_alone_equals_the_formula(impl: str, dtype: torch.dtype, name: str) -> None:
    case = small_case(dtype)
    o = in_dtype_of(case, ALONE[name])
    case = case.replace(labels=case.labels.masked_fill(case.labels == IGNORE, o.ignore_index))
    assert_equals_the_formula(case, o, impl, torch.tensor(2.0, dtype=torch.float64))


@everywhere
@half_as_often
@given(st.data())
def test_the_statistics_are_those_of_the_whole_row_loss(
    impl: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """loss_sum has smoothing, z-loss and class weights in it but no task weight; hits are the raw logits'."""
    case, o = data.draw(option_cases(dtype))
    expected = exact(case.logits.double(), case, o, case.task_weights.double())
    stats = outcome_of(case, o, impl, return_stats=True).stats
    tokens = torch.ones_like(expected.rows) if case.token_weights is None else case.token_weights.double()
    tokens, task_ids = (x.roll(-1, 1) if o.shift else x for x in (tokens, case.task_ids))
    ids = task_ids[expected.read]

    def by_task(values: Tensor) -> Tensor:
        return torch.zeros(case.n_tasks, dtype=values.dtype).index_add(0, ids, values)

    sums = by_task((tokens * expected.rows)[expected.read])
    assert_close(stats.loss_sum, sums, 0, Allowed(expected, torch.ones(()), dtype).loss_sums())
    assert stats.token_count.tolist() == by_task(torch.ones_like(ids)).tolist()
    assert stats.correct_count.tolist() == by_task(expected.correct[expected.read].long()).tolist()
    assert not stats.loss_sum.requires_grad


@everywhere
@half_as_often
@given(st.data())
def test_task_weights_of_one_equal_torch(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F.cross_entropy(weight=, label_smoothing=), whose mean divides by the labels' class weights."""
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    case = data.draw(cases(dtype, token_weights=False))
    case = case.replace(task_weights=torch.ones_like(case.task_weights))
    weights = data.draw(class_weights(case.logits.shape[-1], case.task_weights.dtype))
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    logits = case.logits.double().clone().requires_grad_()
    expected = F.cross_entropy(
        logits.flatten(0, 1),
        case.labels.flatten(),
        weight=weights.double(),
        label_smoothing=smoothing,
        reduction=reduction,
        ignore_index=IGNORE,
    )
    expected = expected.reshape(case.labels.shape) if reduction == "none" else expected
    expected.backward(torch.ones_like(expected))
    ours = "weighted_mean" if reduction == "mean" else reduction
    o = Options(label_smoothing=smoothing, class_weights=weights, reduction=ours)
    allowed = Allowed(exact(case.logits.double(), case, o, case.task_weights.double()), torch.ones(()), dtype)
    got = outcome_of(case, o, impl)
    assert_close(got.loss, expected, 0, allowed.loss())
    assert_close(got.logits_gradient, logits.grad, 0, float(allowed.slopes().max()))


@everywhere
@seldom
@given(st.data())
def test_options_that_say_nothing_change_nothing(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case = data.draw(cases(dtype))
    plain = outcome_of(case, Options(), impl)
    bare = cotbal.gtw_cross_entropy(*case.arguments, token_weights=case.token_weights, impl=impl)
    assert torch.equal(bare, plain.loss)
    weights = case.task_weights.new_ones(case.logits.shape[-1])
    same = outcome_of(case, Options(class_weights=weights), impl)
    assert_losses_close(same.loss, plain.loss, case.logits)
    assert_gradients_close(same.logits_gradient, plain.logits_gradient, dtype)
    # tanh(x) = x within x^3 / 3: far above the logits a cap is none.
    uncapped = outcome_of(case, Options(softcap=1e9), impl)
    assert_losses_close(uncapped.loss, plain.loss, case.logits)
    # float64's own tanh is what rounds here, not the loss.
    assert_gradients_close(uncapped.logits_gradient, plain.logits_gradient, dtype, roundings=2)


@everywhere
@half_as_often
@given(st.data())
def test_the_z_loss_alone_is_zeta_lse_squared(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """Classes that weigh nothing leave it alone in the sum; it keeps the row's weight."""
    case = data.draw(cases(dtype))
    none = case.task_weights.new_zeros(case.logits.shape[-1])
    o = Options(z_loss=0.1, label_smoothing=0.3, class_weights=none, reduction="sum")
    logits = case.logits.double().clone().requires_grad_()
    terms = 0.1 * logits.logsumexp(-1) ** 2 * case.weights
    terms.sum().backward()
    got = outcome_of(case, o, impl)
    allowed = Allowed(exact(case.logits.double(), case, o, case.task_weights.double()), torch.ones(()), dtype)
    assert_close(got.loss, terms.sum(), 0, allowed.loss())
    assert_close(got.logits_gradient, logits.grad, 0, float(allowed.slopes().max()))


@everywhere
@seldom
@given(st.data())
def test_the_weights_gradient_is_that_of_the_statistics(
    impl: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """SPEC: (loss_sum - L m) / denominator; loss_sum / a given denominator; loss_sum of a sum."""
    case, o = data.draw(option_cases(dtype))
    o = o.replace(reduction="sum" if o.reduction == "none" else o.reduction)
    leaf = case.task_weights.clone().requires_grad_()
    got = outcome_of(case, o, impl, task_weights=leaf)
    # Weights of 1 so that the statistics count every task.
    ones = torch.ones_like(case.task_weights)
    loss_sum = outcome_of(case, o, impl, task_weights=ones, return_stats=True).stats.loss_sum.double()
    expected = exact(case.logits.double(), case, o, case.task_weights.double().clone().requires_grad_())
    mass = torch.zeros(case.n_tasks, dtype=torch.float64)
    if expected.is_mean:
        tokens = torch.ones_like(expected.rows) if case.token_weights is None else case.token_weights.double()
        tokens, ids = (x.roll(-1, 1) if o.shift else x for x in (tokens, case.task_ids))
        mass.index_add_(0, ids[expected.read], (tokens * expected.label_weights)[expected.read])
    by_hand = (loss_sum - got.loss.double() * mass) / expected.divisor
    allowed = Allowed(expected, torch.ones((), dtype=torch.float64), dtype)
    assert_close(got.weights_gradient, by_hand, 0, 2 * allowed.task_weights())
    if expected.is_mean:
        # A common factor of all weights changes nothing.
        along = (got.weights_gradient.double() * case.task_weights.double()).sum()
        assert_close(along, torch.zeros(()), 0, 4 * case.n_tasks * allowed.task_weights())


@everywhere
@pytest.mark.parametrize("bad", [-math.inf, math.inf, math.nan, 1e4])
def test_a_row_of_weight_zero_adds_nothing_though_its_weight_is_learned(
    impl: str, dtype: torch.dtype, bad: float
) -> None:
    """Task 2 weighs nothing: its row is read for the weight's gradient, and nothing else may see it."""
    case, o = small_case(dtype), Options(label_smoothing=0.1, z_loss=0.01)
    plain = outcome_of(case, o, impl)
    logits = case.logits.clone()
    logits[1, 0, 6] = bad
    leaf = case.task_weights.clone().requires_grad_()
    got = outcome_of(case.replace(logits=logits), o, impl, task_weights=leaf)
    assert_close(got.loss, plain.loss, LOSS[dtype])
    assert (got.logits_gradient[1, 0] == 0).all()
    assert_gradients_close(got.logits_gradient, plain.logits_gradient, dtype)
    assert leaf.grad[:2].isfinite().all()
    # What cannot be right shows where it belongs: in the gradient of that weight.
    assert leaf.grad[2].isfinite() == (bad == 1e4)


@everywhere
@pytest.mark.parametrize("is_a_label", [False, True])
def test_a_class_of_weight_zero_is_not_smoothed_onto(impl: str, dtype: torch.dtype, is_a_label: bool) -> None:
    """0 * inf would be NaN: a masked class of weight 0 drops out of the smoothing term, as a label too."""
    case = small_case(dtype)
    weights = in_dtype_of(case, ALONE["class_weights"]).class_weights
    labels = case.labels.masked_fill(case.labels == 3, IGNORE)
    labels[labels == (int(labels[labels != IGNORE][0]) if is_a_label else IGNORE)] = (
        3 if is_a_label else IGNORE
    )
    case = case.replace(labels=labels)
    logits = case.logits.clone()
    logits[..., 3] = -math.inf
    o = Options(label_smoothing=0.2, class_weights=weights)
    assert_equals_the_formula(case.replace(logits=logits), o, impl, torch.ones((), dtype=torch.float64))


@everywhere
def test_a_hit_is_decided_before_the_cap(impl: str, dtype: torch.dtype) -> None:
    """The cap makes 20 and 30 the same number; the raw logits differ."""
    logits = torch.tensor([[20.0, 30.0, 0.0], [30.0, 20.0, 0.0], [30.0, 30.0, 0.0]], dtype=dtype)
    labels, task_ids, weights = torch.tensor([0, 0, 0]), torch.arange(3), torch.ones(3)
    _, stats = cotbal.gtw_cross_entropy(
        logits, labels, task_ids, weights, softcap=1.0, return_stats=True, impl=impl
    )
    assert stats.correct_count.tolist() == [0, 1, 1]


@everywhere
@pytest.mark.parametrize("reduction", ["weighted_mean", "sum", "none"])
def test_rows_that_do_not_count_are_not_read(impl: str, dtype: torch.dtype, reduction: str) -> None:
    case = small_case(dtype)
    o = Options(label_smoothing=0.1, z_loss=0.01, softcap=5.0, class_weights=WEIGHTS, reduction=reduction)
    o = in_dtype_of(case, o)
    unread = (case.labels == IGNORE) | (case.task_ids == 2)
    poisoned = case.replace(logits=case.logits.masked_fill(unread[..., None], math.nan))
    got, expected = outcome_of(poisoned, o, impl), outcome_of(case, o, impl)
    assert torch.equal(got.loss, expected.loss)
    assert torch.equal(got.logits_gradient, expected.logits_gradient)
    assert (got.logits_gradient[unread] == 0).all()


@everywhere
@seldom
@given(st.data())
def test_options_give_the_same_bits_every_time(impl: str, dtype: torch.dtype, data: st.DataObject) -> None:
    case, o = data.draw(option_cases(dtype))
    first, second = (
        outcome_of(case, o, impl, task_weights=case.task_weights.clone().requires_grad_()) for _ in range(2)
    )
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.logits_gradient, second.logits_gradient)
    assert torch.equal(first.weights_gradient, second.weights_gradient)


def test_the_oracle_is_torch_where_they_coincide() -> None:
    """Written out by hand for one row, and torch's for many; the oracle of this folder judges all others."""
    case = small_case(torch.float64).replace(task_weights=torch.ones(3, dtype=torch.float64))
    o = in_dtype_of(case, Options(label_smoothing=0.1, class_weights=WEIGHTS))
    got = exact(case.logits, case, o, case.task_weights).loss
    flat = case.logits.flatten(0, 1), case.labels.flatten()
    expected = F.cross_entropy(*flat, weight=o.class_weights, label_smoothing=0.1)
    assert_close(got, expected, LOSS[torch.float64])
    z = [30 * math.tanh(x / 30) for x in (1.0, -40.0)]
    lse = math.log(math.exp(z[0]) + math.exp(z[1]))
    by_hand = 2 * 0.9 * (lse - z[1]) + 0.1 / 2 * (0.5 * (lse - z[0]) + 2 * (lse - z[1])) + 0.01 * lse**2
    one = case.replace(
        logits=torch.tensor([[[1.0, -40.0]]], dtype=torch.float64),
        labels=torch.tensor([[1]]),
        task_ids=torch.tensor([[1]]),
    )
    o = Options(0.1, 0.01, 30.0, torch.tensor([0.5, 2.0]), reduction="sum")
    assert exact(one.logits, one, o, 3 * case.task_weights).loss.item() == pytest.approx(3 * by_hand)


BAD = {
    "smoothing below 0": ({"label_smoothing": -0.1}, "label_smoothing"),
    "smoothing above 1": ({"label_smoothing": 1.1}, "label_smoothing"),
    "smoothing of NaN": ({"label_smoothing": math.nan}, "label_smoothing"),
    "z-loss below 0": ({"z_loss": -1e-4}, "z_loss"),
    "z-loss of inf": ({"z_loss": math.inf}, "z_loss"),
    "z-loss of NaN": ({"z_loss": math.nan}, "z_loss"),
    "softcap of 0": ({"softcap": 0.0}, "softcap"),
    "softcap below 0": ({"softcap": -30.0}, "softcap"),
    "softcap of inf": ({"softcap": math.inf}, "softcap"),
    "softcap of NaN": ({"softcap": math.nan}, "softcap"),
    "class weights of another length": ({"class_weights": torch.ones(6)}, "class_weights"),
    "class weights of two dimensions": ({"class_weights": torch.ones(1, 7)}, "class_weights"),
    "class weight below 0": ({"class_weights": -WEIGHTS}, "class_weights"),
    "class weight of NaN": ({"class_weights": WEIGHTS * math.nan}, "class_weights"),
    "class weight of inf": ({"class_weights": WEIGHTS / 0}, "class_weights"),
    "class weights in bfloat16": ({"class_weights": WEIGHTS.bfloat16()}, "class_weights"),
    "class weights that want a gradient": (
        {"class_weights": torch.ones(7, requires_grad=True)},
        "class_weights",
    ),
    "token weights that want a gradient": (
        {"token_weights": torch.ones(2, 4, requires_grad=True)},
        "token_weights",
    ),
    "a denominator that wants a gradient": (
        {"denominator": torch.tensor(2.0, requires_grad=True)},
        "denominator",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("level", ["logits", "linear"])
@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_a_bad_option_is_named(name: str, level: str, impl: str) -> None:
    changes, message = BAD[name]
    case = small_case(torch.float32)
    fn, features = cotbal.gtw_cross_entropy, (case.logits,)
    if level == "linear":
        fn, features = cotbal.linear_gtw_cross_entropy, (torch.ones(2, 4, 3), torch.ones(7, 3))
    with pytest.raises((ValueError, TypeError), match=message):
        fn(*features, *case.arguments[1:], impl=impl, **changes)


@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "softcap", "class_weights", "shift"])
@pytest.mark.parametrize("level", ["logits", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_check_gradients_knows_every_option(name: str, level: str, dtype: torch.dtype) -> None:
    """It passes what is right, and what drops the option is not within its tolerance."""
    case, o = small_case(dtype), in_dtype_of(small_case(dtype), ALONE[name])
    fn, features = cotbal.gtw_cross_entropy, (case.logits,)
    if level == "linear":
        generator = torch.Generator().manual_seed(1)
        shapes = ((2, 4, 3), (7, 3))
        features = tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
        fn = cotbal.linear_gtw_cross_entropy
    option = {name: getattr(o, name)}
    tasks = {"labels": case.labels, "task_ids": case.task_ids, "task_weights": case.task_weights}
    cotbal.check_gradients(fn, *features, **tasks, **option, impl="torch")

    def without_it(*arguments: Tensor, **_: object) -> Tensor:
        return fn(*arguments)

    with pytest.raises(AssertionError, match="further from float64"):
        cotbal.check_gradients(without_it, *features, **tasks, **option)
