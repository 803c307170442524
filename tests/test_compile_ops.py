"""The losses as operators: opcheck on each, and torch.compile of a model with one of them."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import cotbal
import cotbal.linear_ops
import cotbal.ops
from tests.tolerances import LOSS, RELATIVE, assert_close

pytestmark = pytest.mark.skipif(torch.__version__ < "2.6", reason="it breaks the graph at os.environ")
LEVELS = ("logits", "linear")
N_COLS, WIDTH = 40, 6
LABELS = torch.tensor([[3, -100, 39, 0, 12], [12, 3, -100, 39, 7], [1, 1, 2, 3, -100]])
IDS = torch.tensor([0, 1, 1])
EVERYTHING: dict[str, Any] = {
    "token_weights": torch.linspace(0.5, 1.5, 15).reshape(3, 5),
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "softcap": 20.0,
    "class_weights": torch.linspace(0.5, 2, N_COLS),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": EVERYTHING,
    "shift": {"shift": True},
    "sum": {"reduction": "sum"},
    "rows": {"reduction": "none"},
    "denominator": {"denominator": torch.tensor(7.0)},
    "statistics": {"return_stats": True},
}


@pytest.fixture(autouse=True)
def forget_what_was_compiled() -> Iterator[None]:
    """Models share their code: without this the number of its compilations would end a later test."""
    yield
    torch._dynamo.reset()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(level: str, hidden: Tensor, head: nn.Linear, weights: Tensor, labels: Tensor, **options: Any) -> Any:
    """Either loss of hidden states and a head with its bias; inplace is for the logits alone."""
    if level == "linear":
        options["bias"] = head.bias
        return cotbal.linear_gtw_cross_entropy(hidden, head.weight, labels, IDS, weights, **options)
    return cotbal.gtw_cross_entropy(head(hidden), labels, IDS, weights, **options)


class Recorded(TorchDispatchMode):
    """The arguments that each operator of cotbal is really called with, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "cotbal":
            copies = tuple(arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args)
            self.calls.setdefault(str(func).removesuffix(".default"), []).append((func, copies, kwargs or {}))
        return func(*args, **(kwargs or {}))


@cache
def record() -> Recorded:
    """Every variant of both losses and what only one of them has, forward and backward, by both paths."""
    extra: list[tuple[str, dict[str, Any]]] = [
        (level, options) for level in LEVELS for options in VARIANTS.values()
    ]
    extra += [("linear", {"valid_count": 12}), ("linear", {"memory_budget": "min"})]
    with Recorded() as recorded:
        for impl in ("torch", "triton"):
            for level, options in extra:
                hidden, head = random(3, 5, WIDTH).requires_grad_(), nn.Linear(WIDTH, N_COLS)
                weights = torch.tensor([0.5, 2.0]).requires_grad_()
                got = call(level, hidden, head, weights, LABELS, impl=impl, **options)
                loss = got[0] if options.get("return_stats") else got
                (2 * loss).sum().backward()
    return recorded


def registered() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name.split(".")[0].replace("::", ".") for name in names if name.startswith("cotbal::")})


@pytest.mark.parametrize("name", registered())
def test_opcheck(name: str) -> None:
    """Schema, fake tensors, autograd registration and AOT dispatch with dynamic shapes, on real arguments."""
    calls = record().calls.get(name)
    assert calls, f"{name} was never called: give it a place in record()"
    for func, args, kwargs in distinct(calls):
        torch.library.opcheck(func, differentiable(func, args), kwargs)


def distinct(calls: list[Any]) -> list[Any]:
    """One call of each combination of options: what is no tensor, and which tensors are absent."""

    def options_of(args: tuple[Any, ...]) -> str:
        return repr([arg.ndim if isinstance(arg, Tensor) else arg for arg in args])

    return list({options_of(args): (func, args, kwargs) for func, args, kwargs in calls}.values())


def differentiable(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same arguments, with those requiring grad that the losses differentiate."""
    names = [argument.name for argument in func._schema.arguments]
    trained = {"logits", "hidden", "weight", "bias"}
    # Elsewhere their gradient is refused: rows of weight 0 were not read for it.
    if "reads_unweighted" in names and args[names.index("reads_unweighted")]:
        trained.add("task_weights")
    return tuple(
        arg.requires_grad_() if name in trained and isinstance(arg, Tensor) else arg
        for name, arg in zip(names, args, strict=False)
    )


class Model(nn.Module):
    """An embedding, one layer, a head, and the loss inside `forward`, as in a causal language model."""

    def __init__(self, level: str, options: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layer = nn.Embedding(N_COLS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, N_COLS)
        self.level, self.options = level, options

    def forward(self, tokens: Tensor, labels: Tensor, ids: Tensor, weights: Tensor) -> Any:
        """The loss, perhaps with its statistics."""
        hidden = torch.tanh(self.layer(self.embed(tokens)))
        if self.level == "linear":
            return cotbal.linear_gtw_cross_entropy(
                hidden, self.head.weight, labels, ids, weights, bias=self.head.bias, **self.options
            )
        return cotbal.gtw_cross_entropy(self.head(hidden), labels, ids, weights, **self.options)


def step(run: Callable[..., Any], model: Model, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """The loss, the gradients of all parameters and of the task weights, and the statistics if any."""
    model.zero_grad(set_to_none=True)
    weights = torch.tensor([0.5, 2.0]).requires_grad_()
    got = run(*batch, weights)
    loss, stats = got if isinstance(got, tuple) else (got, ())
    loss.sum().backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters()), weights.grad, *stats]


def gradients_of(loss: Tensor, trained: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, trained, retain_graph=True)


def assert_same(got: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for tensor, other in zip(got, expected, strict=True):
        assert tensor.dtype == other.dtype
        assert_close(tensor, other, relative, relative * 1e-3)


TOKENS = torch.randint(N_COLS, (3, 5), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_compiled_model_equals_eager(level: str, variant: str) -> None:
    """One graph, no break, forward and backward; the operator inside runs the same code."""
    model = Model(level, VARIANTS[variant])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    got, expected = step(compiled, model, (TOKENS, LABELS, IDS)), step(model, model, (TOKENS, LABELS, IDS))
    assert counter.frame_count == 1
    assert_same(got, expected, RELATIVE[torch.float32])


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("count", [12, 15])
def test_a_valid_count_compiles(impl: str, count: int) -> None:
    model = Model("linear", {"valid_count": count, "impl": impl, "return_stats": True})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got, expected = step(compiled, model, (TOKENS, LABELS, IDS)), step(model, model, (TOKENS, LABELS, IDS))
    assert_same(got, expected, RELATIVE[torch.float32])


@pytest.mark.parametrize("level", LEVELS)
def test_the_kernel_compiles(level: str) -> None:
    model = Model(level, {"impl": "triton", "label_smoothing": 0.1})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    got, expected = step(compiled, model, (TOKENS, LABELS, IDS)), step(model, model, (TOKENS, LABELS, IDS))
    assert_same(got, expected, RELATIVE[torch.float32])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("frozen", ["model", "task weights", "no_grad"])
def test_a_graph_captured_without_a_gradient_does_not_train(level: str, frozen: str) -> None:
    """It formed none: what is unfrozen afterwards would stay as it is, and nothing would say so."""
    model = Model(level, {}).requires_grad_(frozen != "model")
    weights = torch.tensor([0.5, 2.0], requires_grad=frozen != "task weights")
    with torch.set_grad_enabled(frozen != "no_grad"):
        captured = torch.export.export(model, (TOKENS, LABELS, IDS, weights)).module()
    for parameter in captured.parameters():
        parameter.requires_grad_()
    loss = captured(TOKENS, LABELS, IDS, weights.requires_grad_())
    of_model = "logits" if level == "logits" else "hidden, weight, bias"
    names = {"model": of_model, "task weights": "task_weights", "no_grad": f"{of_model}, task_weights"}
    with pytest.raises(RuntimeError, match=f"^{names[frozen]}: expected a loss .*; capture it anew"):
        loss.backward()


# torch's own about what it cannot trace.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("level", LEVELS)
def test_the_reference_may_break_a_graph_and_stays_right(level: str) -> None:
    """Which rows it reads depends on data."""
    model = Model(level, {"impl": "reference", "label_smoothing": 0.1})
    compiled = torch.compile(model, backend="aot_eager")
    got, expected = step(compiled, model, (TOKENS, LABELS, IDS)), step(model, model, (TOKENS, LABELS, IDS))
    assert_same(got, expected, RELATIVE[torch.float32])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_a_compiled_graph_runs_backward_twice(level: str, impl: str, backend: str) -> None:
    """A gradient that is scaled in place would be another one the second time."""
    model = Model(level, {"impl": impl})
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    loss = compiled(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))
    expected = model(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))
    trained = [model.head.weight, model.head.bias]
    for factor in (0.25, 1.0, 3.0):
        got = torch.autograd.grad(factor * loss, trained, retain_graph=True)
        assert_same(list(got), [factor * g for g in gradients_of(expected, trained)], RELATIVE[torch.float32])


@pytest.mark.parametrize("level", LEVELS)
def test_no_graph_break(level: str) -> None:
    explained = torch._dynamo.explain(Model(level, EVERYTHING))(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


@pytest.mark.parametrize("level", LEVELS)
def test_dynamic_shapes(level: str) -> None:
    """Batch and length of every size by one graph."""
    model = Model(level, {"return_stats": True, "shift": True})
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for batch, length in ((3, 5), (2, 4), (5, 9)):
        generator = torch.Generator().manual_seed(batch)
        tokens = torch.randint(N_COLS, (batch, length), generator=generator)
        labels = torch.randint(N_COLS, (batch, length), generator=generator)
        labels[0, 1] = -100
        ids = torch.arange(batch) % 2
        for tensor in (tokens, labels):
            torch._dynamo.mark_dynamic(tensor, 0)
            torch._dynamo.mark_dynamic(tensor, 1)
        torch._dynamo.mark_dynamic(ids, 0)
        inputs = (tokens, labels, ids)
        assert_same(step(compiled, model, inputs), step(model, model, inputs), RELATIVE[torch.float32])
    assert counter.frame_count == 1


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("what", ["labels", "task_ids"])
def test_what_is_out_of_range_still_raises(level: str, impl: str, what: str) -> None:
    model = Model(level, {"impl": impl})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    step(compiled, model, (TOKENS, LABELS, IDS))
    labels, ids = LABELS.clone(), IDS.clone()
    if what == "labels":
        labels[1, 1] = N_COLS
    else:
        ids[2] = 2
    with pytest.raises((ValueError, RuntimeError), match=f"{what}: expected values in"):
        step(compiled, model, (TOKENS, labels, ids))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_still_raises(level: str, bad: float) -> None:
    """Values are checked where the operator runs, not only where it is traced."""
    model = Model(level, {})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))
    with pytest.raises((ValueError, RuntimeError), match="task_weights: expected finite values >= 0"):
        compiled(TOKENS, LABELS, IDS, torch.tensor([0.5, bad]))


def test_a_valid_count_too_small_still_raises() -> None:
    model = Model("linear", {"valid_count": 12})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))
    with pytest.raises((ValueError, RuntimeError), match="valid_count"):
        compiled(TOKENS, torch.ones_like(LABELS), IDS, torch.tensor([0.5, 2.0]))


@pytest.mark.skipif(torch.__version__ < "2.7", reason="its compiler raises too, but with a text of its own")
@pytest.mark.parametrize("level", LEVELS)
def test_accumulation_under_compile_raises(level: str) -> None:
    """Each level's option that writes where no graph sees it."""
    options = {"inplace": True} if level == "logits" else {"accumulate_weight_grad": True}
    compiled = torch.compile(Model(level, options), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=next(iter(options))):
        compiled(TOKENS, LABELS, IDS, torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("level", LEVELS)
def test_modules_compile(level: str) -> None:
    """GTWLoss holds its weights itself; a change of them shows in the compiled module."""
    module = cotbal.GTWLoss([0.5, 2.0]) if level == "logits" else cotbal.LinearGTWLoss([0.5, 2.0])
    features = [random(3, 5, N_COLS)] if level == "logits" else [random(3, 5, WIDTH), random(N_COLS, WIDTH)]
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*features, LABELS, IDS), module(*features, LABELS, IDS), LOSS[torch.float32])


# torch's own about itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.full
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_default_compiler(level: str, variant: str) -> None:
    model = Model(level, VARIANTS[variant])
    compiled = torch.compile(model, fullgraph=True)
    got, expected = step(compiled, model, (TOKENS, LABELS, IDS)), step(model, model, (TOKENS, LABELS, IDS))
    # The layers around the loss are fused by it, so they round elsewhere.
    assert_same(got, expected, 4 * RELATIVE[torch.float32])


@pytest.mark.filterwarnings("ignore")
def test_a_count_of_its_own_for_each_batch_compiles_once_or_twice() -> None:
    """The number of valid rows saves a GPU a synchronisation; as a constant it would be compiled in."""
    counter = CompileCounterWithBackend("aot_eager")
    head, weights = random(N_COLS, WIDTH), torch.tensor([0.5, 2.0])

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def run(hidden: Tensor, labels: Tensor, ids: Tensor, count: int) -> Tensor:
        return cotbal.linear_gtw_cross_entropy(hidden, head, labels, ids, weights, valid_count=count)

    for n_rows in range(10, 34, 2):
        hidden, labels = random(n_rows, WIDTH).requires_grad_(), torch.arange(n_rows) % N_COLS
        labels[::2] = -100
        ids = torch.arange(n_rows) % 2
        loss = run(hidden, labels, ids, n_rows // 2)
        assert torch.equal(loss, cotbal.linear_gtw_cross_entropy(hidden, head, labels, ids, weights))
        loss.backward()
    assert counter.frame_count <= 2
