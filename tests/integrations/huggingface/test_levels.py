import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from cotbal.integrations.huggingface import acceptance
from cotbal.integrations.huggingface.heads import inner_model
from cotbal.integrations.huggingface.levels import install_loss
from cotbal.integrations.huggingface.loss_position import LogitShape
from cotbal.integrations.huggingface.no_logits import NoLogits, NoLogitsError
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import CASES, NO_LOSS_FUNCTION, Size, build, each
from tests.integrations.huggingface.level_runs import (
    DENOMINATOR,
    TASK_IDS,
    WEIGHTS,
    errors,
    run,
    weighted,
)

CAPPED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "PaliGemmaForConditionalGeneration")


def begun() -> StepLoss:
    step_loss = StepLoss(2)
    step_loss.begin_step(WEIGHTS, DENOMINATOR)
    return step_loss


def training_loss(model: nn.Module, batch: dict[str, Tensor], step_loss: StepLoss, **more: Any) -> Any:
    with step_loss.micro_batch(TASK_IDS):
        return model(**batch, **more)


@pytest.mark.parametrize("name", each(name for name in CASES if name not in NO_LOSS_FUNCTION))
def test_the_linear_level_is_the_logits_level(name: str) -> None:
    model, batch = build(name)
    logits, linear = run(model, batch, "logits"), run(model, batch, "linear")
    assert torch.isclose(logits.loss, weighted(logits.logits, batch["labels"]), rtol=1e-5)
    found = errors(model, batch)
    assert found.exact, found
    assert isinstance(linear.logits, NoLogits)
    assert all(gradient.any() for key, gradient in linear.gradients.items() if "head" in key)
    # The multimodal Gemma 3 has a cap in its configuration, and none in its code.
    assert ("softcap" in linear.installed.reason) == (name in CAPPED)
    if "pixel_values" in batch:
        assert any(gradient.any() for key, gradient in linear.gradients.items() if "vis" in key)


@pytest.mark.parametrize(
    "use", [lambda each: each.shape, lambda each: each[0], lambda each: torch.relu(each)]
)
def test_logits_that_were_never_made_say_so(use: Any) -> None:
    with pytest.raises(NoLogitsError, match='expected level="logits" where training looks at them'):
        use(NoLogits())


def test_what_is_installed_reads_as_its_level_and_the_reason() -> None:
    installed = install_loss(build("LlamaForCausalLM")[0], StepLoss(2), "logits")
    assert repr(installed) == f"Installed(level='logits', reason={installed.reason!r})"


def test_auto_says_what_goes_into_the_loss() -> None:
    def reason(name: str) -> str:
        installed = install_loss(build(name)[0], StepLoss(2), "auto")
        assert installed.level == "linear"
        return installed.reason

    assert reason("LlamaForCausalLM").endswith("of a random batch agree with the logits level")
    assert reason("Gemma2ForCausalLM").endswith("; softcap 5 inside the loss")
    assert reason("GraniteForCausalLM").endswith("; scale 0.125 inside the loss")
    assert reason("CohereForCausalLM").endswith("; scale 0.25 inside the loss")


class OwnLogits(LlamaForCausalLM):
    """Does to its logits what no configuration tells."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits - 0.01 * outputs.logits.square()
        outputs["loss"] = self.loss_function(outputs.logits, labels, self.config.vocab_size)
        return outputs


class OwnLabels(LlamaForCausalLM):
    """Hands other labels to its loss than it was given."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        return super().forward(*args, labels=None if labels is None else labels.clone(), **kwargs)


class FewerLabels(LlamaForCausalLM):
    """Takes labels away that the step's denominator has counted."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        labels = None if labels is None else labels.index_fill(1, torch.tensor([-1]), -100)
        return super().forward(*args, labels=labels, **kwargs)


class CutLabels(LlamaForCausalLM):
    """Hands fewer positions to its loss than there are labels."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        labels = None if labels is None else labels[:, 1:]
        return super().forward(*args, labels=labels, logits_to_keep=slice(1, None), **kwargs)


class SwallowsShifted(LlamaForCausalLM):
    """Does not hand shift_labels on to its loss."""

    def forward(self, *args: Any, shift_labels: Tensor | None = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class OwnLoss(LlamaForCausalLM):
    """Computes its loss by itself."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs["loss"] = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
        return outputs


class NeedsImages(LlamaForCausalLM):
    """Does not run on a stand-in for its body."""

    def forward(self, *args: Any, pixel_values: Tensor, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def llama(cls: type[nn.Module] = LlamaForCausalLM) -> tuple[Any, dict[str, Tensor]]:
    model, batch = build("LlamaForCausalLM")
    other = cls(model.config)
    other.load_state_dict(model.state_dict())
    return other.train(), batch


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (OwnLogits, "is off by .*changes its logits in a way of its own"),
        (OwnLabels, "changes the labels on the way"),
        (NeedsImages, "missing 1 required keyword-only argument: 'pixel_values'"),
    ],
)
def test_a_class_that_does_not_agree_is_refused_by_name(cls: type[nn.Module], why: str) -> None:
    model, _ = llama(cls)
    with pytest.raises(ValueError, match=f"{cls.__name__}.*{why}"):
        install_loss(model, StepLoss(2), "linear")
    installed = install_loss(model, StepLoss(2), "auto")
    assert installed.level == "logits"
    assert cls.__name__ in installed.reason


@pytest.mark.parametrize("cls", [OwnLogits, OwnLabels])
def test_auto_is_exact_where_linear_is_refused(cls: type[nn.Module]) -> None:
    model, batch = llama(cls)
    outcome = run(model, batch, "auto")
    assert torch.isclose(outcome.loss, weighted(outcome.logits, batch["labels"]), rtol=1e-5)


@pytest.mark.parametrize(
    ("cls", "why"), [(FewerLabels, "positions that it changes, got"), (CutLabels, "of the shape")]
)
def test_labels_that_the_denominator_did_not_count_raise(cls: type[nn.Module], why: str) -> None:
    model, batch = llama(cls)
    with pytest.raises(ValueError, match=f"{cls.__name__}: expected the labels of the batch .*{why}"):
        run(model, batch, "auto")


def test_shifted_labels_that_a_class_swallows_are_not_shifted_twice() -> None:
    model, batch = llama(SwallowsShifted)
    expected = run(model, batch, "logits").loss
    shifted = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    step_loss = begun()
    install_loss(model, step_loss, "logits")
    # As the trainer fills a batch in that has the one alone.
    loss = training_loss(model, batch | {"labels": shifted}, step_loss, shift_labels=shifted).loss
    assert torch.isclose(loss, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="expected the labels of the batch"):
        training_loss(model, batch, step_loss, shift_labels=shifted)


def test_a_small_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap of 300 changes a logit of 1 by a part in 270 000: the check draws larger ones."""
    model, _ = build("LlamaForCausalLM")
    monkeypatch.setattr(acceptance, "_shapes", lambda _: iter([acceptance.LogitShape(softcap=300.0)]))
    with pytest.raises(acceptance.NotExactError, match="is off by"):
        acceptance.accepted_shape(model)


@pytest.mark.parametrize(("factor", "size"), [(float("nan"), 1.0), (1.01, 1.0), (1.01, 1e-4)])
def test_one_gradient_that_is_off_or_not_a_number_is_seen(
    monkeypatch: pytest.MonkeyPatch, factor: float, size: float
) -> None:
    """Behind a right loss, in one row alone, of small ones too: Python's max() would lose a NaN."""
    model, _ = build("LlamaForCausalLM")
    of_shape = acceptance._Batch.run

    def run(self: acceptance._Batch, *args: Any) -> list[Tensor]:
        loss, *gradients = of_shape(self, *args)
        if len(args) > 1:
            gradients[0][1, 0] *= factor
        return [loss, *(size * each for each in gradients)]

    monkeypatch.setattr(acceptance._Batch, "run", run)
    with pytest.raises(acceptance.NotExactError, match="is off by"):
        acceptance.accepted_shape(model)


def test_a_scale_is_that_of_the_bias_as_well() -> None:
    torch.manual_seed(0)
    hidden, head, labels = torch.randn(2, 5, 8), nn.Linear(8, 11), torch.randint(11, (2, 5))
    step_loss = begun()
    with step_loss.micro_batch(TASK_IDS):
        loss = LogitShape(scale=0.25).loss(step_loss, hidden, head, labels, True)
    assert torch.isclose(loss, weighted(0.25 * head(hidden), labels), rtol=1e-5)


def test_the_check_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build("CohereForCausalLM")
    model.eval()
    model.lm_head.train()
    model(**batch).loss.backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    state, seeds = torch.get_rng_state(), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    installed = install_loss(model, StepLoss(2), "linear")
    installed.restore()
    assert torch.equal(torch.get_rng_state(), state)
    assert not seeds, "the generators of GPUs were seeded"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert not {"forward", "_loss_function"} & (model.__dict__.keys() | model.lm_head.__dict__.keys())


def test_the_check_needs_no_weights() -> None:
    """As under ZeRO-3, whose parameters are empty until they are gathered."""
    model, _ = build("Gemma2ForCausalLM")
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    assert install_loss(model, StepLoss(2), "linear").level == "linear"


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_outside_a_micro_batch_the_model_is_its_own(level: str) -> None:
    model, batch = build("Gemma2ForCausalLM")
    own = model(**batch)
    signature = inspect.signature(model.forward)
    installed = install_loss(model, begun(), level)
    patched = model(**batch)
    assert torch.equal(patched.loss, own.loss)
    assert torch.equal(patched.logits, own.logits)
    assert inspect.signature(model.forward) == signature
    installed.restore()
    assert torch.equal(model(**batch).loss, own.loss)
    assert type(model).forward is model.forward.__func__


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_shifted_labels_and_positional_arguments(level: str) -> None:
    model, batch = build("MistralForCausalLM")
    expected = run(model, batch, level).loss
    shifted = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    step_loss = begun()
    install_loss(model, step_loss, level)
    loss = training_loss(model, batch | {"labels": shifted}, step_loss, shift_labels=shifted).loss
    assert torch.isclose(loss, expected, rtol=1e-6)
    mask, ids, labels = (batch[name] for name in ("attention_mask", "input_ids", "labels"))
    with step_loss.micro_batch(TASK_IDS):
        assert torch.isclose(model(ids, mask, None, None, None, labels).loss, expected, rtol=1e-6)
    with step_loss.micro_batch(TASK_IDS):
        loss, *_ = model(**batch, return_dict=False)
    assert torch.isclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_bfloat16_and_autocast(level: str) -> None:
    model, batch = build("Gemma2ForCausalLM")
    expected = run(model, batch, level).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(model, batch, level)
    half = run(model.bfloat16(), batch, level)
    assert torch.isclose(mixed.loss, expected, rtol=2e-2)
    assert torch.isclose(half.loss, expected, rtol=2e-2)
    assert mixed.loss.dtype == half.loss.dtype == torch.float32


def test_hooks_of_the_head_fire_before_its_gradient_is_made() -> None:
    """As those do that gather a sharded head for the backward pass."""
    model, batch = build("CohereForCausalLM")
    fired: list[str] = []

    def watch(head: nn.Module, inputs: Any, output: Tensor) -> None:
        fired.append(f"view {output._is_view()}")

    watch.__module__ = "torch.distributed.fsdp"
    model.lm_head.register_forward_hook(watch)
    model.lm_head.register_full_backward_pre_hook(lambda *_: fired.append("head"))
    model.lm_head.weight.register_hook(lambda _: fired.append("weight"))
    run(model, batch, "linear")
    assert fired == ["view False", "head", "weight"]


def test_a_copy_of_the_model_trains_its_own_weights() -> None:
    model, batch = build("LlamaForCausalLM")
    step_loss = begun()
    install_loss(model, step_loss, "linear")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    losses = [training_loss(each, batch, step_loss).loss for each in (model, twin)]
    assert not torch.isclose(*losses)
    losses[1].backward()
    assert model.lm_head.weight.grad is None
    assert twin.lm_head.weight.grad.any()


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_a_batch_without_labels_raises(level: str) -> None:
    model, batch = build("LlamaForCausalLM")
    step_loss = begun()
    install_loss(model, step_loss, level)
    del batch["labels"]
    with pytest.raises(ValueError, match="labels: expected them in every training batch of LlamaForCausalLM"):
        training_loss(model, batch, step_loss)


def test_a_loss_that_is_not_ours_raises() -> None:
    model, batch = llama(OwnLoss)
    with pytest.raises(ValueError, match=r"OwnLoss computed no loss .* \(a class that forms it"):
        install_loss(model, StepLoss(2), "auto")
    step_loss = begun()
    install_loss(model, step_loss, "logits")
    with pytest.raises(ValueError, match="OwnLoss computed no loss through its loss_function"):
        training_loss(model, batch, step_loss)


def test_a_routers_auxiliary_loss_raises() -> None:
    config = MixtralConfig(**Size().language(num_local_experts=2), output_router_logits=True)
    model, batch = MixtralForCausalLM(config), build("LlamaForCausalLM")[1]
    step_loss = begun()
    install_loss(model, step_loss, "logits")
    with pytest.raises(ValueError, match=r"MixtralForCausalLM adds to its loss.*output_router_logits=False"):
        training_loss(model, batch, step_loss)
    training_loss(model, batch, step_loss, output_router_logits=False)


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_rows_without_logits_raise(level: str) -> None:
    model, batch = build("LlamaForCausalLM")
    step_loss = begun()
    install_loss(model, step_loss, level)
    with pytest.raises(ValueError, match=r"labels: expected the shape of .* leave logits_to_keep out"):
        training_loss(model, batch, step_loss, logits_to_keep=3)


def test_another_head_raises() -> None:
    model, batch = build("LlamaForCausalLM")
    step_loss = begun()
    install_loss(model, step_loss, "linear")
    model.lm_head = nn.Linear(32, 100, bias=False)
    with pytest.raises(ValueError, match="did not call the lm_head that the loss was put into"):
        training_loss(model, batch, step_loss)


# Dynamo's own, on the masks of transformers 4.57.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("level", ["logits", "linear"])
def test_a_compiled_model_is_found_and_is_one_graph_with_the_loss(level: str) -> None:
    model, batch = build("LlamaForCausalLM")
    expected = run(model, batch, level).loss
    step_loss = begun()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    install_loss(compiled, step_loss, level)
    assert torch.isclose(training_loss(compiled, batch, step_loss).loss, expected, rtol=1e-5)


def test_a_model_that_ddp_holds_already_is_found() -> None:
    model, _ = build("LlamaForCausalLM")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        held = nn.parallel.DistributedDataParallel(model)
        assert inner_model(held) is inner_model(torch.compile(held, backend="eager")) is model
    finally:
        torch.distributed.destroy_process_group()
