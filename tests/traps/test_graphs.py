"""Where other losses were wrong as part of a training; each test is named after the trap."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.profiler import profile

import cotbal
import csrc_triton
from tests.tolerances import LOSS, assert_close, assert_gradients_close

fast_impl = pytest.mark.parametrize("impl", ["torch", "triton"])
every_impl = pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
LABELS = torch.tensor([[3, -100, 39, 0], [12, 3, 7, 39]])
IDS = torch.tensor([0, 1])
WEIGHTS = torch.tensor([0.5, 2.0])
ONCE = torch.float32


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def gradients_of(loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, torch.ones_like(loss), retain_graph=True)


@fast_impl
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_retain_graph_and_second_backward(level: str, impl: str) -> None:
    """A gradient scaled in place is wrong the second time; more of it in tests/test_backward_twice.py."""
    inputs = leaves((2, 4, 40)) if level == "logits" else leaves((2, 4, 5), (40, 5))
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    loss = fn(*inputs, LABELS, IDS, WEIGHTS, impl=impl)
    half = torch.autograd.grad(0.5 * loss, inputs, retain_graph=True)
    for _ in range(2):
        again = torch.autograd.grad(loss, inputs, retain_graph=True)
        for gradient, other in zip(again, half, strict=True):
            assert_gradients_close(gradient, 2 * other, ONCE)


@fast_impl
def test_logits_used_after_the_loss(impl: str) -> None:
    """What kept the logits for its own backward raises; more of it in tests/test_inplace.py."""
    (leaf,) = leaves((2, 4, 40))
    logits = leaf * 1
    entropy = (logits * logits).mean()
    cotbal.gtw_cross_entropy(logits, LABELS, IDS, WEIGHTS, inplace=True, impl=impl)
    with pytest.raises(RuntimeError, match="inplace operation"):
        entropy.backward()
    before = (leaf * 1).detach()
    logits = leaf * 1
    cotbal.gtw_cross_entropy(logits, LABELS, IDS, WEIGHTS, impl=impl).backward()
    assert torch.equal(logits.detach(), before)


NOT_CONTIGUOUS = {
    "a slice of the sequence": lambda x: torch.cat([x, x], 1)[:, 4:],
    "every second column": lambda x: torch.stack([x, -x], -1).flatten(-2)[..., ::2],
    "column major": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "batch inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "one row for all": lambda x: x[:1, :1].expand(2, 4, x.shape[2]),
}


@every_impl
@pytest.mark.parametrize("layout", NOT_CONTIGUOUS)
def test_non_contiguous_logits(impl: str, layout: str) -> None:
    (leaf,) = leaves((2, 4, 40))
    logits = NOT_CONTIGUOUS[layout](leaf)
    assert not logits.is_contiguous()
    losses = [
        cotbal.gtw_cross_entropy(x, LABELS, IDS, WEIGHTS, reduction="none", impl=how)
        for x, how in ((logits, impl), (logits.contiguous(), "reference"))
    ]
    (got,), (expected,) = (gradients_of(loss, [leaf]) for loss in losses)
    assert_close(losses[0], losses[1], LOSS[ONCE])
    assert_gradients_close(got, expected, ONCE)


@every_impl
@pytest.mark.parametrize("which", ["hidden", "weight", "upstream"])
def test_non_contiguous_features_of_the_linear_loss(impl: str, which: str) -> None:
    """A tied embedding passed transposed, hidden states sliced, an upstream gradient that is expanded."""
    hidden, weight = leaves((2, 4, 5), (40, 5))
    x = NOT_CONTIGUOUS["batch inside"](hidden) if which == "hidden" else hidden
    w = weight.t().contiguous().t() if which == "weight" else weight
    losses = [
        cotbal.linear_gtw_cross_entropy(*features, LABELS, IDS, WEIGHTS, reduction="none", impl=how)
        for features, how in (((x, w), impl), ((hidden, weight), "reference"))
    ]
    upstream = torch.tensor(0.5).expand(2, 4) if which == "upstream" else random(2, 4)
    got, expected = (torch.autograd.grad(loss, [hidden, weight], upstream) for loss in losses)
    for gradient, other in zip(got, expected, strict=True):
        assert_gradients_close(gradient, other, ONCE, roundings=2)


def products_of(hidden: Tensor, weight: Tensor, impl: str) -> int:
    """How many matrix products forward and backward run."""
    with profile() as recorded:
        loss = cotbal.linear_gtw_cross_entropy(hidden, weight, LABELS, IDS, WEIGHTS, impl=impl)
        if loss.requires_grad:
            loss.backward()
    products = {"aten::mm", "aten::addmm", "aten::addmm_"}
    return sum(event.count for event in recorded.key_averages() if event.key in products)


@fast_impl
def test_frozen_head(impl: str) -> None:
    """Its product is not made; nor is that of frozen hidden states (a head trained alone)."""
    hidden, weight = leaves((2, 4, 5), (40, 5))
    assert products_of(hidden, weight, impl) == 3
    assert products_of(hidden.detach(), weight, impl) == 2
    hidden.grad = weight.grad = None
    assert products_of(hidden, weight.detach(), impl) == 2
    expected = cotbal.linear_gtw_cross_entropy(hidden, weight, LABELS, IDS, WEIGHTS, impl="reference")
    assert_gradients_close(hidden.grad, *gradients_of(expected, [hidden]), ONCE, roundings=2)
    assert products_of(hidden.detach(), weight.detach(), impl) == 1


@fast_impl
def test_lora_on_the_head_is_not_skipped_in_silence(impl: str) -> None:
    """W is frozen and W + BA is given: its gradient must reach A and B."""
    hidden, frozen, b, a = leaves((2, 4, 5), (40, 5), (40, 2), (2, 5))
    results = []
    for how in (impl, "reference"):
        weight = frozen.detach() + 2.0 * b @ a
        loss = cotbal.linear_gtw_cross_entropy(hidden, weight, LABELS, IDS, WEIGHTS, impl=how)
        results.append([loss, *gradients_of(loss, [hidden, b, a])])
    (loss, *got), (expected_loss, *expected) = results
    assert_close(loss, expected_loss, LOSS[ONCE])
    for gradient, other in zip(got, expected, strict=True):
        assert gradient.abs().max() > 0
        assert_gradients_close(gradient, other, ONCE, roundings=4)


@fast_impl
def test_accumulation_is_refused_for_a_weight_that_is_no_leaf(impl: str) -> None:
    """W + BA has no .grad to add to: its gradient must go on to A and B, not into the void."""
    hidden, frozen, b, a = leaves((2, 4, 5), (40, 5), (40, 2), (2, 5))
    weight = frozen.detach() + b @ a
    with pytest.raises(ValueError, match="accumulate_weight_grad"):
        cotbal.linear_gtw_cross_entropy(
            hidden, weight, LABELS, IDS, WEIGHTS, accumulate_weight_grad=True, impl=impl
        )


@every_impl
@pytest.mark.parametrize("shape", [(0,), (0, 5), (40, 0)])
@pytest.mark.parametrize("valid", [True, False])
def test_zero3_empty_weight(impl: str, shape: tuple[int, ...], valid: bool) -> None:
    """A partitioned parameter is an empty tensor until it is gathered: no loss may come of it."""
    labels = LABELS if valid else torch.full_like(LABELS, -100)
    hidden = torch.ones(2, 4, 0 if shape == (40, 0) else 5)
    with pytest.raises(ValueError, match="weight"):
        cotbal.linear_gtw_cross_entropy(hidden, torch.empty(shape), labels, IDS, WEIGHTS, impl=impl)


SNAPSHOT = """
import sys
import torch, torch.nn.functional
import transformers
from transformers.loss import loss_utils
from transformers.models.llama import modeling_llama

def snapshot():
    owners = [torch, torch.nn.functional, torch.nn.Module, torch.nn.CrossEntropyLoss, torch.Tensor,
              torch.autograd, transformers, transformers.PreTrainedModel, transformers.Trainer, loss_utils,
              modeling_llama, modeling_llama.LlamaForCausalLM]
    found = {(repr(owner), name): id(value) for owner in owners for name, value in vars(owner).items()
             if callable(value) and not name.startswith("__")}
    return found | {("loss", name): id(value) for name, value in loss_utils.LOSS_MAPPING.items()}

before = snapshot()
import cotbal
loss = cotbal.gtw_cross_entropy(torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]))
loss.backward()
after = snapshot()
changed = [key for key, value in before.items() if after.get(key) != value]
assert len(before) > 1000, len(before)
assert not changed, changed
assert not torch.cuda.is_initialized()
"""


def test_class_patched_for_all_later_models() -> None:
    """Importing and using the loss replaces nothing in torch or transformers."""
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("level", ["logits", "linear"])
def test_loss_constants_under_torch_compile(level: str) -> None:
    """Weights and denominators are data, not constants of the graph: none is stale, none compiles anew."""
    counter = CompileCounterWithBackend("aot_eager")

    def step(features: list[Tensor], weights: Tensor, denominator: Tensor, smoothing: float) -> Tensor:
        fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
        options = {"denominator": denominator, "label_smoothing": smoothing}
        return fn(*features, LABELS, IDS, weights, **options)

    compiled = torch.compile(step, backend=counter, fullgraph=True)
    features = leaves((2, 4, 40)) if level == "logits" else leaves((2, 4, 5), (40, 5))
    for weights, denominator in (([0.5, 2.0], 3.0), ([4.0, 0.25], 3.0), ([4.0, 0.25], 11.0)):
        arguments = (features, torch.tensor(weights), torch.tensor(denominator))
        got, expected = compiled(*arguments, 0.1), step(*arguments, 0.1)
        assert_close(got, expected, LOSS[ONCE])
        for gradient, other in zip(
            gradients_of(got, features), gradients_of(expected, features), strict=True
        ):
            assert_gradients_close(gradient, other, ONCE)
    assert counter.frame_count == 1
    # An option that is a number of Python may compile anew, but never keep its old value.
    assert_close(compiled(*arguments, 0.4), step(*arguments, 0.4), LOSS[ONCE])


@fast_impl
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_mean_over_an_accumulation_window(level: str, impl: str) -> None:
    """Four micro-batches of 1, 7, 0 and 8 valid tokens: a mean of their means is another loss."""
    labels = torch.full((4, 8), -100)
    labels[0, 2], labels[1, 1:], labels[3] = 5, 9, torch.arange(8)
    ids, classes = torch.tensor([0, 1, 1, 0]), torch.linspace(0.5, 2, 40)
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "class_weights": classes}
    shapes = [(4, 8, 40)] if level == "logits" else [(4, 8, 5), (40, 5)]
    fn = cotbal.gtw_cross_entropy if level == "logits" else cotbal.linear_gtw_cross_entropy
    whole, parts = leaves(*shapes), leaves(*shapes)
    expected = fn(*whole, labels, ids, WEIGHTS, impl=impl, **options)
    expected.backward()
    valid = labels != -100
    denominator = (WEIGHTS[ids][:, None] * classes[labels.where(valid, 0)] * valid).sum()
    total = torch.zeros(())
    for n in range(4):
        loss = fn(
            parts[0][n : n + 1],
            *parts[1:],
            labels[n : n + 1],
            ids[n : n + 1],
            WEIGHTS,
            denominator=denominator,
            impl=impl,
            **options,
        )
        loss.backward()
        total += loss.detach()
    assert_close(total, expected, LOSS[ONCE])
    for part, other in zip(parts, whole, strict=True):
        assert_gradients_close(part.grad, other.grad, ONCE, roundings=2)


def test_an_autotuner_that_corrupts_data_in_place() -> None:
    """It runs a kernel several times on the caller's data: launches come from a table."""
    for path in Path(csrc_triton.__file__).parent.glob("*.py"):
        assert not re.search(r"triton\.(autotune|heuristics)|import autotune", path.read_text()), path
    results = []
    for _ in range(2):
        (leaf,) = leaves((2, 4, 40))
        logits = leaf * 1
        loss = cotbal.gtw_cross_entropy(logits, LABELS, IDS, WEIGHTS, inplace=True, impl="triton")
        results.append((loss, *gradients_of(loss, [leaf]), logits))
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_offsets_of_every_kernel_are_64_bit() -> None:
    """A row number times a stride passes 2^31: in words, as the interpreter dies of it (`test_far_rows`)."""
    programs = []
    for path in Path(csrc_triton.__file__).parent.glob("*.py"):
        for kernel in path.read_text().split("@triton.jit")[1:]:
            if "stride_row" in kernel:
                programs += re.findall(r"tl\.program_id\(\d\)(\S*)", kernel)
    assert programs
    assert all(cast == ".to(tl.int64)" for cast in programs), programs
