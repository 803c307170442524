from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers.integrations.peft import MIN_PEFT_VERSION

from cotbal.integrations.huggingface.levels import install_loss
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import build
from tests.integrations.huggingface.level_runs import WEIGHTS, Run, errors, run, weighted

# PEFT 0.21 uses what transformers 5.23 and 5.24 renamed.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:`{name}` is deprecated:FutureWarning")
    for name in ("is_gradient_checkpointing", "past_key_values")
]


def adapted(config: peft.PeftConfig, name: str = "LlamaForCausalLM") -> tuple[Any, dict[str, Tensor]]:
    """The class with an adapter whose every weight is random: a new LoRA adds nothing."""
    model, batch = build(name)
    adapted_model = peft.get_peft_model(model, config).train()
    with torch.no_grad():
        for parameter in adapted_model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return adapted_model, batch


def lora(**options: Any) -> peft.LoraConfig:
    defaults = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
    return peft.LoraConfig(**(defaults | options))


def both(model: Any, batch: dict[str, Tensor]) -> tuple[Run, Run]:
    logits, linear = run(model, batch, "logits"), run(model, batch, "linear")
    assert linear.gradients
    found = errors(model, batch)
    assert found.exact, found
    return logits, linear


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "LlavaForConditionalGeneration"])
def test_lora_on_the_body(name: str) -> None:
    model, batch = adapted(lora(), name)
    logits, linear = both(model, batch)
    assert all("lora_" in key and gradient.any() for key, gradient in linear.gradients.items())
    assert torch.isclose(linear.loss, weighted(logits.logits, batch["labels"]), rtol=1e-5)


def products(model: nn.Module, batch: dict[str, Tensor]) -> set[tuple[int, ...]]:
    """The shapes of what matrix products are added to within a run at the linear level."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        run(model, batch, "linear")
    return {tuple(event.input_shapes[0]) for event in recorded.events() if event.name == "aten::addmm"}


def test_a_frozen_head_skips_the_product_for_its_gradient() -> None:
    model, batch = adapted(lora())
    head = model.get_base_model().lm_head.weight
    assert tuple(head.shape) not in products(model, batch)
    head.requires_grad_()
    assert tuple(head.shape) in products(model, batch)


def test_a_saved_head_is_the_one_that_trains() -> None:
    model, batch = adapted(lora(modules_to_save=["lm_head"]))
    saved = "base_model.model.lm_head.modules_to_save.default.weight"
    _, linear = both(model, batch)
    assert linear.gradients[saved].any()
    assert "base_model.model.lm_head.original_module.weight" not in linear.gradients


def test_the_saved_head_of_another_adapter() -> None:
    model, batch = adapted(lora(modules_to_save=["lm_head"]))
    model.add_adapter("other", lora(modules_to_save=["lm_head"]))
    step_loss = StepLoss(2)
    step_loss.begin_step(WEIGHTS, torch.tensor(9.0))
    installed = install_loss(model, step_loss, "linear")
    model.set_adapter("other")
    losses = {}
    for name in ("other", "default"):
        model.set_adapter(name)
        with step_loss.micro_batch(torch.tensor([0, 1])):
            losses[name] = model(**batch).loss
    installed.restore()
    for name, loss in losses.items():
        model.set_adapter(name)
        assert torch.isclose(loss, weighted(model(**batch).logits, batch["labels"]), rtol=1e-5)
    assert not torch.isclose(losses["other"], losses["default"])


@pytest.mark.parametrize(
    "options", [{"target_modules": ["q_proj", "lm_head"]}, {"trainable_token_indices": {"lm_head": [3, 4]}}]
)
def test_an_adapted_head_is_refused_at_the_linear_level_and_exact_at_the_other(options: Any) -> None:
    model, batch = adapted(lora(**options))
    with pytest.raises(ValueError, match=r"adapter adds to its logits.*modules_to_save"):
        install_loss(model, StepLoss(2), "linear")
    outcome = run(model, batch, "auto")
    assert outcome.installed.level == "logits"
    assert torch.isclose(outcome.loss, weighted(outcome.logits, batch["labels"]), rtol=1e-5)


def test_a_mixed_model() -> None:
    """PEFT's class for adapters of several kinds does not say what it wraps."""
    model, batch = build("LlamaForCausalLM")
    both(peft.get_peft_model(model, lora(init_lora_weights=False), mixed=True), batch)


@pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION), reason="these transformers need a newer PEFT"
)
def test_an_adapter_that_transformers_put_in() -> None:
    model, batch = build("MistralForCausalLM")
    model.add_adapter(lora())
    both(model, batch)
    other, batch = build("MistralForCausalLM")
    other.add_adapter(lora(target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="adapter adds to its logits"):
        install_loss(other, StepLoss(2), "linear")


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["prompt", "p", "prefix"],
)
def test_virtual_tokens(config: peft.PeftConfig) -> None:
    """They lengthen the labels (prefix tuning does not), so that the first label becomes a target."""
    model, batch = adapted(config)
    logits, linear = both(model, batch)
    longer = logits.logits.shape[1] - batch["labels"].shape[1]
    assert longer == (0 if config.peft_type == "PREFIX_TUNING" else 3)
    labels = nn.functional.pad(batch["labels"], (longer, 0), value=-100)
    assert torch.isclose(linear.loss, weighted(logits.logits, labels), rtol=1e-5)


def test_peft_passes_our_key_on_and_swallows_task_ids() -> None:
    """Why the ids travel as cotbal_task_ids."""
    model, batch = adapted(lora())
    seen: dict[str, Any] = {}
    inner = model.get_base_model()
    own = inner.forward
    # Not a hook: PEFT 0.15 calls forward, not the module.
    inner.forward = lambda *args, **kwargs: (seen.update(kwargs), own(*args, **kwargs))[1]
    model(**batch, cotbal_task_ids=torch.tensor([0, 1]), task_ids=torch.tensor([0, 1]))
    assert torch.equal(seen["cotbal_task_ids"], torch.tensor([0, 1]))
    assert "task_ids" not in seen
