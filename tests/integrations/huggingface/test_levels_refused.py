"""Heads, models and losses that a level cannot be put into: refused, each with what to do."""

from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, LlamaForCausalLM

from cotbal.integrations.huggingface.levels import install_loss
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import Size, build
from tests.integrations.huggingface.level_runs import errors, run
from tests.integrations.huggingface.training import tiny_model


def quantise(model: Any) -> None:
    model.lm_head = torch.ao.nn.quantized.dynamic.Linear(32, 100)


def quantise_weight(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.to(torch.int8), requires_grad=False)


def offload(model: Any) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(model.lm_head, ModelHook())


def align(model: Any) -> None:
    """As accelerate does to each layer, here on one device."""
    from accelerate import dispatch_model

    dispatch_model(model, {"": "cpu"}, force_hooks=True)


def align_on_two(model: Any) -> None:
    align(model)
    model.hf_device_map = {"model": 0, "lm_head": 1}


def align_with_offload(model: Any) -> None:
    align(model)
    model.lm_head._hf_hook.offload = True


def halve_over_aligned(model: Any) -> None:
    align(model)
    own = model.lm_head.forward
    model.lm_head.forward = wraps(own)(lambda hidden: 0.5 * own(hidden))


def take_away(model: Any) -> None:
    model.get_output_embeddings = lambda: None


def split(model: Any) -> None:
    model._tp_size = 2


class Halved(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return 0.5 * super().forward(hidden)


def subclass(model: Any) -> None:
    model.lm_head = Halved(32, 100, bias=False)


def halve_logits(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda head, inputs, logits: 0.5 * logits)


# Of torch, about the tensors that its own quantised layers make.
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            quantise,
            r"quantized.dynamic.*Linear \(quantised, or with a forward of its own\).*llm_int8_skip",
        ),
        (subclass, r"lm_head is a .*Halved \(quantised, or with a forward of its own\)"),
        (quantise_weight, "lm_head.weight is a quantised Tensor of torch.int8"),
        (offload, "lm_head's forward has been replaced.*on one device"),
        (align_on_two, "lm_head's forward has been replaced.*on one device"),
        (align_with_offload, "lm_head's forward has been replaced.*on one device"),
        (halve_over_aligned, "lm_head's forward has been replaced.*another patch"),
        (take_away, "LlamaForCausalLM has no output embeddings"),
        (split, "split over tensor-parallel ranks"),
        (halve_logits, r"lm_head has the forward hook .*halve_logits.*, which may change its logits"),
    ],
)
def test_a_head_that_is_no_plain_product_is_refused(change: Any, why: str) -> None:
    model, _ = build("LlamaForCausalLM")
    change(model)
    with pytest.raises(ValueError, match=f'level="linear": .*{why}'):
        install_loss(model, StepLoss(2), "linear")
    assert install_loss(model, StepLoss(2), "auto").level == "logits"


def test_what_accelerate_does_to_a_head_on_one_device_is_no_change() -> None:
    model, batch = build("LlamaForCausalLM")
    align(model)
    theirs = model.lm_head.forward
    found = errors(model, batch)
    assert found.exact, found
    assert model.lm_head.forward == theirs


def started(model: Any) -> StepLoss:
    """Our loss in the model at the linear level, in its first step."""
    step_loss = StepLoss(2)
    assert install_loss(model, step_loss).level == "linear"
    step_loss.begin_step(torch.ones(2), torch.tensor(9.0))
    return step_loss


def adapt_head(model: Any) -> None:
    """As PEFT puts an adapter on a head."""
    own = model.lm_head
    model.lm_head = nn.Module()
    model.lm_head.forward = lambda hidden: own(hidden) + hidden.new_ones(100)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (halve_logits, "lm_head got the forward hook .*halve_logits.* since the loss was put into it"),
        (adapt_head, "does something to the logits of lm_head before its loss .*adapter that was put on"),
    ],
)
def test_a_head_that_is_changed_after_the_loss_was_put_in(change: Any, why: str) -> None:
    model, batch = build("LlamaForCausalLM")
    step_loss = started(model)
    change(model)
    refused = pytest.raises(ValueError, match=f'{why}.*; use level="logits"')
    with refused, step_loss.micro_batch(torch.tensor([0, 1])):
        model(**batch)


@pytest.mark.parametrize(
    "use",
    [
        lambda logits, labels: logits[:, :-1],
        lambda logits, labels: logits.argmax(-1),
        lambda logits, labels: nn.functional.cross_entropy(logits, labels),
    ],
)
def test_who_asks_for_the_logits_is_told_where_they_are(use: Any) -> None:
    """A loss or an accuracy of a user's own would find them to be of width 0."""
    model, batch = build("LlamaForCausalLM")
    step_loss = started(model)
    with step_loss.micro_batch(torch.tensor([0, 1])):
        outputs = model(**batch)
    assert not hasattr(outputs.logits, "shape")
    with pytest.raises(ValueError, match='logits: expected level="logits" where training looks at them'):
        use(outputs.logits, batch["labels"])


def test_what_cannot_be_installed() -> None:
    model, _ = build("LlamaForCausalLM")
    with pytest.raises(ValueError, match="level: expected one of auto, linear, logits, got 'fused'"):
        install_loss(model, StepLoss(2), "fused")
    with pytest.raises(TypeError, match="expected a transformers model with a loss function, got Linear"):
        install_loss(nn.Linear(2, 2), StepLoss(2))
    installed = install_loss(model, StepLoss(2))
    with pytest.raises(ValueError, match="LlamaForCausalLM already has a loss of cotbal"):
        install_loss(model, StepLoss(2))
    installed.restore()
    install_loss(model, StepLoss(2))


def test_a_loss_that_does_not_shift_is_not_replaced() -> None:
    masked = BertForMaskedLM(BertConfig(**Size().language()))
    with pytest.raises(ValueError, match="causal language models in BertForMaskedLM, got ForMaskedLMLoss"):
        install_loss(masked, StepLoss(2))
    model, _ = build("LlamaForCausalLM")
    model.config.is_encoder_decoder = True
    with pytest.raises(ValueError, match="expected a decoder, got the encoder-decoder LlamaForCausalLM"):
        install_loss(model, StepLoss(2))


def test_a_body_without_its_head_is_told_as_one() -> None:
    with pytest.raises(
        ValueError, match=r"takes labels and has a head, got LlamaModel, .* AutoModelForCausalLM"
    ):
        install_loss(tiny_model().model, StepLoss(2))


def test_a_users_own_loss_is_not_dropped() -> None:
    model, _ = build("LlamaForCausalLM")
    model.loss_function = lambda logits, labels, vocab_size: logits.sum()
    with pytest.raises(ValueError, match="would be dropped: take it out first"):
        install_loss(model, StepLoss(2))


class Aligned(LlamaForCausalLM):
    """Takes its labels as aligned with its logits, as decoders of an encoder do."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs["loss"] = self.loss_function(outputs.logits, None, self.vocab_size, shift_labels=labels)
        return outputs


class InPlace(LlamaForCausalLM):
    """Ignores a position more, in the very tensor of the batch."""

    def forward(self, *args: Any, labels: Tensor, **kwargs: Any) -> Any:
        return super().forward(*args, labels=labels.index_fill_(1, torch.tensor([-1]), -100), **kwargs)


class TwoLosses(LlamaForCausalLM):
    """Computes its loss twice, and returns the last."""

    def forward(self, *args: Any, labels: Tensor, **kwargs: Any) -> Any:
        outputs = super().forward(*args, labels=labels, **kwargs)
        outputs["loss"] = self.loss_function(outputs.logits, labels, self.vocab_size)
        return outputs


class OtherIgnored(LlamaForCausalLM):
    """Also ignores a token of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs, ignore_index=7)


@pytest.mark.parametrize("level", ["logits", "auto"])
@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Aligned, "Aligned hands shift_labels to its loss_function.*put them into the batch as shift_labels"),
        (InPlace, "InPlace changes the labels of the batch in place.*change them in the collator"),
        (TwoLosses, "TwoLosses computes more than one loss in a pass; it cannot be weighted"),
        (OtherIgnored, "ignore_index: expected -100 in the loss_function of OtherIgnored, got 7"),
    ],
)
def test_labels_that_a_class_reads_in_a_way_of_its_own_raise(
    cls: type[LlamaForCausalLM], why: str, level: str
) -> None:
    model, batch = build("LlamaForCausalLM")
    with pytest.raises(ValueError, match=why):
        run(cls(model.config).train(), batch, level)


class ScalesInTraining(LlamaForCausalLM):
    """Does to its logits in training what it does not do in evaluation."""

    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * (0.5 if self.training else 1.0)
        if labels is not None:
            outputs["loss"] = self.loss_function(outputs.logits, labels, self.vocab_size)
        return outputs


def test_a_model_in_evaluation_mode_is_checked_as_it_trains() -> None:
    """As from_pretrained returns it."""
    model = ScalesInTraining(build("LlamaForCausalLM")[0].config).eval()
    with pytest.raises(ValueError, match="ScalesInTraining: on a random batch the linear level is off by"):
        install_loss(model, StepLoss(2), "linear")
    assert not model.training
