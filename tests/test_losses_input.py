"""What a first-time user passes by mistake, and derivatives that an operator does not have."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh

import cotbal

LOGITS, LABELS = torch.randn(6, 50), torch.arange(6)
HIDDEN, HEAD = torch.randn(6, 8), torch.randn(50, 8)
IDS, WEIGHTS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, 2.0, 0.5])
LEVELS = ("logits", "linear")
BAD = {
    "labels of another shape": ({"labels": LABELS[:5]}, ValueError, r"labels: expected shape \(6,\)"),
    "labels of another dtype": (
        {"labels": LABELS.int()},
        TypeError,
        "labels: expected int64, got torch.int32",
    ),
    "label too large": (
        {"labels": torch.full_like(LABELS, 50)},
        ValueError,
        r"labels: .* 0\.\.49 .* got 50 in row 0",
    ),
    "label below 0": ({"labels": torch.full_like(LABELS, -1)}, ValueError, r"labels: .* got -1 in row 0"),
    "ids of another shape": (
        {"task_ids": IDS[:4]},
        ValueError,
        r"task_ids: expected the labels' shape \(6,\)",
    ),
    "ids of another dtype": ({"task_ids": IDS.float()}, TypeError, "task_ids: expected int64"),
    "id too large": ({"task_ids": IDS + 1}, ValueError, r"task_ids: .* 0\.\.2 .* got 3 in row 4"),
    "id below 0": ({"task_ids": IDS - 1}, ValueError, r"task_ids: .* got -1 in row 0"),
    "ids without weights": ({"task_weights": None}, ValueError, "task_weights: expected beside task_ids"),
    "weights without ids": ({"task_ids": None}, ValueError, "task_ids: expected beside task_weights"),
    "weight below 0": ({"task_weights": -WEIGHTS}, ValueError, "task_weights: expected finite values >= 0"),
    "one of many": ({"task_weights": torch.tensor([1.0] * 10 + [-2.0])}, ValueError, r"got \[-2\.0\]$"),
    "many": ({"task_weights": -torch.ones(11)}, ValueError, r"got \[(-1\.0, ){7}-1\.0\] and others$"),
    "weight of NaN": ({"task_weights": WEIGHTS * math.nan}, ValueError, "task_weights: expected finite"),
    "weights in bfloat16": ({"task_weights": WEIGHTS.bfloat16()}, TypeError, "would round the weights"),
    "weights of two dimensions": ({"task_weights": WEIGHTS[None]}, ValueError, r"expected shape \(N,\)"),
    "token weights of another shape": (
        {"token_weights": torch.ones(5)},
        ValueError,
        "token_weights: expected",
    ),
    "token weights of inf": (
        {"token_weights": torch.full((6,), math.inf)},
        ValueError,
        "token_weights: expected",
    ),
    "denominator as a number": (
        {"denominator": 3.0},
        TypeError,
        r"denominator: expected a 0-d float32 tensor, got 3\.0; use torch\.as_tensor\(",
    ),
    "denominator of 0": ({"denominator": torch.tensor(0.0)}, ValueError, "denominator: .* got 0.0"),
    "denominator below 0": ({"denominator": torch.tensor(-1.0)}, ValueError, "denominator: .* got -1.0"),
    "denominator of NaN": ({"denominator": torch.tensor(math.nan)}, ValueError, "denominator: .* got nan"),
    "denominator of a sum": (
        {"denominator": torch.tensor(1.0), "reduction": "sum"},
        ValueError,
        "denominator",
    ),
    "reduction": ({"reduction": "mean"}, ValueError, "reduction: expected one of weighted_mean, sum, none"),
    "implementation": ({"impl": "cuda"}, ValueError, "impl: expected one of auto, triton, torch, reference"),
    "stats without tasks": (
        {"task_ids": None, "task_weights": None, "return_stats": True},
        ValueError,
        "return_stats: needs task_ids and task_weights",
    ),
}


def loss_of(level: str, *arguments: Any, **options: Any) -> Any:
    if level == "logits":
        return cotbal.gtw_cross_entropy(LOGITS, *arguments, **options)
    return cotbal.linear_gtw_cross_entropy(HIDDEN, HEAD, *arguments, **options)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_bad_input_is_named(name: str, level: str) -> None:
    changes, error, message = BAD[name]
    arguments = {"labels": LABELS, "task_ids": IDS, "task_weights": WEIGHTS} | changes
    linear = (torch.ones(6, 3), torch.ones(50, 3))
    fn, features = (
        (cotbal.gtw_cross_entropy, (LOGITS,))
        if level == "logits"
        else (cotbal.linear_gtw_cross_entropy, linear)
    )
    with pytest.raises(error, match=message):
        fn(*features, **arguments)


@pytest.mark.parametrize("trained", [False, True], ids=["given weights", "trained weights"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("impl", ["reference", "torch", "triton", "kernel"])
@pytest.mark.parametrize(("name", "value"), [("labels", 50), ("task_ids", 7)])
def test_a_row_of_token_weight_0_is_checked_too(
    level: str, impl: str, name: str, value: int, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel alone on a GPU; trained weights want another choice of rows."""
    tensors = {"labels": LABELS.clone(), "task_ids": IDS.clone()}
    tensors[name][3] = value
    expected = f"{name}: .* got {value} in row 3"
    if impl == "kernel":
        impl, expected = "triton", "expected labels in .*, task_ids in "
        monkeypatch.setattr("cotbal._compute.check_rows", lambda *_: None)
    weights, tokens = (
        WEIGHTS.clone().requires_grad_(trained),
        torch.ones(6).index_fill_(0, torch.tensor(3), 0),
    )
    with pytest.raises(ValueError, match=expected):
        loss_of(level, *tensors.values(), weights, token_weights=tokens, impl=impl)


@pytest.mark.parametrize(
    ("hidden", "weight", "options", "error", "message"),
    [
        (torch.ones(6, 3), torch.ones(50, 4), {}, ValueError, r"expected \(\.\.\., D\) and \(V, D\)"),
        (
            torch.ones(6, 3),
            torch.ones(50, 3).bfloat16(),
            {},
            TypeError,
            r"expected the dtype of hidden, torch\.float32, got torch\.bfloat16; cast one to the other, or",
        ),
        (torch.ones(6, 3), torch.ones(50, 3), {"memory_budget": "max"}, ValueError, "memory_budget"),
        (torch.ones(6, 3), torch.ones(50, 3), {"memory_budget": 0}, ValueError, "memory_budget"),
        (torch.ones(6, 3).long(), torch.ones(50, 3).long(), {}, TypeError, "expected a floating dtype"),
    ],
)
def test_bad_input_of_the_linear_loss(
    hidden: torch.Tensor, weight: torch.Tensor, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        cotbal.linear_gtw_cross_entropy(hidden, weight, LABELS, **options)


def test_the_kernel_refuses_what_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="takes float16, bfloat16 and float32"):
        cotbal.gtw_cross_entropy(LOGITS.double(), LABELS, impl="triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a CUDA tensor"):
        cotbal.gtw_cross_entropy(LOGITS, LABELS, impl="triton")


def test_the_environment_chooses_the_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTBAL_IMPL", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        cotbal.gtw_cross_entropy(LOGITS, LABELS)
    assert cotbal.gtw_cross_entropy(LOGITS, LABELS, impl="torch").isfinite()


def test_ids_of_ignored_rows_may_be_padding() -> None:
    labels, ids = LABELS.clone(), IDS.clone()
    labels[2], ids[2] = -100, -100
    got = cotbal.gtw_cross_entropy(LOGITS, labels, ids, WEIGHTS)
    ids[2] = 0
    assert torch.equal(got, cotbal.gtw_cross_entropy(LOGITS, labels, ids, WEIGHTS))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": [1] * 6}, TypeError, r"labels: expected a tensor, got list; use torch.as_tensor\("),
        ({"labels": np.ones(6)}, TypeError, r"labels: expected a tensor, got ndarray; use torch.as_tensor\("),
        ({"labels": None}, TypeError, "labels: expected a tensor, got NoneType"),
        ({"task_ids": ["a"] * 6}, TypeError, "task_ids: expected a tensor, got list"),
        ({"task_weights": [1.0, 2.0, 3.0]}, TypeError, "task_weights: expected a tensor, got list"),
        ({"task_weights": cotbal.TaskWeights({"a": 1.0})}, TypeError, r"TaskWeights; use .*to_tensor\(tasks"),
        ({"task_weights": WEIGHTS.long()}, TypeError, r"got torch.int64; use task_weights.float\(\)"),
        (
            {"task_weights": WEIGHTS.double() * 1e-60},
            ValueError,
            r"task_weights: .* float32 holds, got \[1e-60, 2",
        ),
        (
            {"task_weights": WEIGHTS.double() * 1e39},
            ValueError,
            r"float32 holds, got \[1e\+39, .*; scale all",
        ),
        ({"token_weights": torch.ones(6).double() * 1e-60}, ValueError, "token_weights: .* float32 holds"),
        ({"token_weights": 1.0}, TypeError, "token_weights: expected a tensor, got float"),
        ({"ignore_index": None}, TypeError, "ignore_index: expected an int, got None"),
        ({"ignore_index": -100.0}, TypeError, "ignore_index: expected an int, got -100.0"),
        ({"label_smoothing": None}, ValueError, r"label_smoothing: expected a number in 0\.\.1, got None"),
        ({"ignore_index": True}, TypeError, "ignore_index: expected an int, got True"),
        ({"label_smoothing": True}, ValueError, r"label_smoothing: expected a number in 0\.\.1, got True"),
        ({"softcap": "30"}, ValueError, "softcap: expected a number .*, or None, got '30'"),
        (
            {"softcap": 1e-40},
            ValueError,
            r"softcap: expected a number of 1\.18e-38 to 3\.4e\+38, .* got 1e-40",
        ),
        ({"softcap": 1e39}, ValueError, r"softcap: expected a number .* got 1e\+39"),
        ({"z_loss": 1e39}, ValueError, r"z_loss: expected a number >= 0 and <= 3\.4e\+38, got 1e\+39"),
        ({"ignore_index": 2**63}, ValueError, "ignore_index: expected an int of 64 bits, .* got 92233720"),
        ({"ignore_index": -(2**70)}, ValueError, "ignore_index: expected an int of 64 bits, .* got -118"),
    ],
)
def test_another_type_is_named(level: str, changes: dict[str, Any], error: type, message: str) -> None:
    arguments = {"labels": LABELS, "task_ids": IDS, "task_weights": WEIGHTS} | changes
    with pytest.raises(error, match=message):
        loss_of(level, **arguments)


@pytest.mark.skipif(torch.__version__ < "2.6", reason="it breaks the graph at os.environ")
def test_a_weight_that_float32_does_not_hold_is_refused_in_a_graph_too() -> None:
    """There no value is read: it comes to the operator as NaN. float64 logits keep it."""
    weights = torch.tensor([1.0, 1e-60, 1.0], dtype=torch.float64)
    compiled = torch.compile(cotbal.gtw_cross_entropy, backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match=r"task_weights: expected finite values >= 0, got \[nan\]"):
        compiled(LOGITS, LABELS, IDS, weights)
    logits = LOGITS.double().requires_grad_()
    cotbal.gtw_cross_entropy(logits, LABELS, IDS, weights).backward()
    assert 0 < logits.grad[2].abs().sum() < 1e-59  # type: ignore[index]


def test_what_holds_the_tensor_is_not_the_tensor() -> None:
    """A model's output for its logits, a head for its weight."""
    with pytest.raises(TypeError, match=r"logits: expected a tensor, got SimpleNamespace; use its \.logits"):
        cotbal.gtw_cross_entropy(SimpleNamespace(logits=LOGITS), LABELS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"weight: expected a tensor, got Linear; use its \.weight"):
        cotbal.linear_gtw_cross_entropy(HIDDEN, nn.Linear(8, 50), LABELS)  # type: ignore[arg-type]


def test_the_codes_of_a_quantised_head_are_no_weights() -> None:
    """To cast them to the dtype of hidden, as for any other, would give a plausible loss."""
    for codes in (HEAD.to(torch.int8), torch.zeros(200, 1, dtype=torch.uint8), HEAD.to(torch.float8_e4m3fn)):
        with pytest.raises(TypeError, match=r"weight: .* a quantised head, .* logits to gtw_cross_entropy"):
            cotbal.linear_gtw_cross_entropy(HIDDEN, codes, LABELS)


@pytest.mark.parametrize("level", LEVELS)
def test_shapes_can_be_tried_on_meta_tensors(level: str) -> None:
    """And a module keeps the values of its weights."""
    options = {"labels": LABELS, "task_ids": IDS}
    tensors = {"logits": LOGITS} if level == "logits" else {"hidden": HIDDEN, "weight": HEAD}
    criterion = cotbal.GTWLoss(WEIGHTS) if level == "logits" else cotbal.LinearGTWLoss(WEIGHTS)
    loss = criterion(**{name: each.to("meta") for name, each in (tensors | options).items()})
    assert (loss.is_meta, loss.shape) == (True, ())
    assert torch.equal(criterion(**tensors, **options), loss_of(level, LABELS, IDS, WEIGHTS))


@pytest.mark.parametrize("where", ["meta", "fake"])
def test_shapes_can_be_tried_where_a_loss_overwrites(where: str) -> None:
    """There is nothing to overwrite: an estimate of memory runs the step that is to come as it stands."""
    with FakeTensorMode() if where == "fake" else torch.device("meta"):
        leaf, labels = torch.randn(6, 50, requires_grad=True), torch.zeros(6, dtype=torch.int64)
        loss = cotbal.GTWLoss([1.0, 2.0])(2 * leaf, labels, labels, inplace=True)
        hidden, head = torch.randn(6, 8), torch.randn(50, 8, requires_grad=True)
        head.grad = torch.zeros_like(head)
        (loss + cotbal.linear_gtw_cross_entropy(hidden, head, labels, accumulate_weight_grad=True)).backward()
    assert leaf.grad.shape == leaf.shape
    assert head.grad.shape == head.shape


# torch's own, where it loads its forward-mode formulas.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("level", LEVELS)
def test_a_derivative_that_would_be_0_in_silence_is_refused(level: str) -> None:
    """Forward mode and torch.func see a constant in an operator; the reference has both."""
    at = LOGITS if level == "logits" else HIDDEN

    def loss(values: Tensor, impl: str = "auto") -> Any:
        if level == "logits":
            return cotbal.gtw_cross_entropy(values, LABELS, IDS, WEIGHTS, impl=impl)
        return cotbal.linear_gtw_cross_entropy(values, HEAD, LABELS, IDS, WEIGHTS, impl=impl)

    for derivative in (lambda: torch.func.jvp(loss, (at,), (at,)), lambda: torch.func.grad(loss)(at)):
        with pytest.raises(NotImplementedError, match=r'use torch\.autograd\.grad, or impl="reference"'):
            derivative()
    # In silence too: a slice of a leaf does not say that the leaf requires grad.
    with pytest.raises(NotImplementedError, match=r"func, vmap and forward.*reference\" \(not within vmap\)"):
        torch.vmap(loss)(at.expand(2, *at.shape))
    if torch.__version__ >= "2.6":  # An older compiler breaks the graph at os.environ.
        with pytest.raises(Exception, match="vmap: not through this loss"):
            torch.compile(torch.vmap(loss), backend="eager", fullgraph=True)(at.expand(2, *at.shape))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        loss(forward_ad.make_dual(at, at))
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    _, tangent = torch.func.jvp(lambda values: loss(values, "reference"), (at,), (at,))
    torch.testing.assert_close(tangent, (gradient * at).sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_the_reference_has_every_derivative_by_a_weight_of_0() -> None:
    """The rows of a task of weight 0 are read whichever way its weight is differentiated."""
    weights = torch.tensor([2.0, 0.0, 0.5])

    def loss(logits: Tensor, weights: Tensor) -> Any:
        return cotbal.gtw_cross_entropy(logits, LABELS, IDS, weights, impl="reference")

    logits, leaf = LOGITS.clone().requires_grad_(), weights.clone().requires_grad_()
    by_logits, by_weights = torch.autograd.grad(loss(logits, leaf), (logits, leaf), create_graph=True)
    assert by_weights[1] != 0
    torch.testing.assert_close(torch.func.jacfwd(loss, 1)(LOGITS, weights), by_weights.detach())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weights, torch.tensor([0.0, 1.0, 0.0]))
        torch.testing.assert_close(forward_ad.unpack_dual(loss(LOGITS, dual)).tangent, by_weights[1].detach())
    (mixed,) = torch.autograd.grad(by_logits.square().sum(), leaf)
    by_functions = torch.func.grad(lambda each: torch.func.grad(loss)(LOGITS, each).square().sum())(weights)
    torch.testing.assert_close(by_functions, mixed)


@pytest.mark.parametrize("at", ["weight", "bias", "task_weights"])
def test_torch_func_is_refused_in_whatever_has_a_gradient(at: str) -> None:
    tensors = {"weight": HEAD, "bias": torch.zeros(50), "task_weights": WEIGHTS}

    def loss(values: Tensor) -> Any:
        others = tensors | {at: values, "labels": LABELS, "task_ids": IDS}
        return cotbal.linear_gtw_cross_entropy(HIDDEN, **others)

    with pytest.raises(NotImplementedError, match=r"use torch\.autograd\.grad"):
        torch.func.grad(loss)(tensors[at])


def test_counts_may_be_numpys() -> None:
    given = {"valid_count": np.int64(6), "memory_budget": np.int64(1 << 20)}
    expected = loss_of("linear", LABELS, IDS, WEIGHTS)
    assert torch.equal(loss_of("linear", LABELS, IDS, WEIGHTS, **given), expected)
    wrong_ones = ("valid_count", np.float64(6)), ("valid_count", True), ("memory_budget", np.int64(0))
    for name, wrong in wrong_ones:
        with pytest.raises(ValueError, match=f"{name}: expected"):
            loss_of("linear", LABELS, IDS, WEIGHTS, **{name: wrong})


@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_numbers_at_the_end_of_their_range_are_taken(impl: str) -> None:
    tiny = cotbal.gtw_cross_entropy(LOGITS, LABELS, softcap=1.2e-38, impl=impl)
    assert tiny.item() == pytest.approx(math.log(50))
    huge = cotbal.gtw_cross_entropy(LOGITS, LABELS, softcap=1e30, ignore_index=2**63 - 1, impl=impl)
    assert huge.item() == pytest.approx(cotbal.gtw_cross_entropy(LOGITS, LABELS).item())
    if impl != "triton":
        cotbal.gtw_cross_entropy(LOGITS.double(), LABELS, softcap=1e-50, z_loss=1e50, impl=impl)


def test_a_name_from_the_environment_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTBAL_IMPL", "cuda")
    with pytest.raises(ValueError, match=r"COTBAL_IMPL: expected one of auto, .* got 'cuda'"):
        loss_of("logits", LABELS)
    with pytest.raises(ValueError, match="impl: expected one of auto"):
        loss_of("logits", LABELS, impl="cuda")
    monkeypatch.setenv("COTBAL_IMPL", "")
    loss_of("logits", LABELS)


def test_a_sharded_tensor_is_refused(tmp_path: Path) -> None:
    """It has the shape of the whole, a rank's piece of the values, and no rule for this loss."""
    tensor = pytest.importorskip("torch.distributed.tensor")
    if not hasattr(tensor, "distribute_tensor"):
        pytest.skip("torch 2.4 has it under another name")
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        head, logits = (
            tensor.distribute_tensor(each.clone(), mesh, [tensor.Shard(0)]) for each in (HEAD, LOGITS)
        )
        with pytest.raises(TypeError, match=r"weight: expected a tensor, got DTensor; .*grad_placements="):
            cotbal.linear_gtw_cross_entropy(HIDDEN, head, LABELS)
        with pytest.raises(TypeError, match=r"logits: expected a tensor, got DTensor; .*\.to_local\(\)"):
            cotbal.gtw_cross_entropy(logits, LABELS)
    finally:
        dist.destroy_process_group()
