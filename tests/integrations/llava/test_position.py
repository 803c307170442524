"""Where the loss is put into LLaVA's models, and which models it is not put into."""

import pytest
import torch
from llava.model import LlavaConfig, LlavaLlamaForCausalLM
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from cotbal.integrations.llava.position import LLaVAPosition
from cotbal.step_loss import StepLoss

_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


class Quantised(nn.Linear):
    """A head with a forward of its own, as quantised ones have."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden)


def model(**options: int) -> LlavaLlamaForCausalLM:
    torch.manual_seed(0)
    return LlavaLlamaForCausalLM(LlavaConfig(vocab_size=40, **_SIZES, **options))


def adapted_head() -> nn.Module:
    made = get_peft_model(model(), LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        made.get_output_embeddings().lora_B["default"].weight.fill_(0.5)
    return made


def quantised_head() -> nn.Module:
    made = model()
    made.lm_head = Quantised(16, 40, bias=False)
    return made


def loss(made: nn.Module, level: str) -> tuple[Tensor, LLaVAPosition]:
    step_loss = StepLoss(2)
    position = LLaVAPosition(made, step_loss, level)
    step_loss.begin_step(torch.tensor([0.5, 2.0]), torch.tensor(3 * 0.5 + 3 * 2.0))
    with position.micro_batch(_IDS, torch.tensor([0, 1])):
        return made(input_ids=_IDS, labels=_IDS).loss, position


def expected(made: nn.Module) -> Tensor:
    logits = made(input_ids=_IDS).logits[:, :-1].double()
    rows = nn.functional.cross_entropy(logits.flatten(0, 1), _IDS[:, 1:].flatten(), reduction="none")
    return (rows.view(2, 3).sum(1) * torch.tensor([0.5, 2.0])).sum() / 7.5


def test_sliced_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pretraining_tp 1 in its configuration, got 2.*config.json"):
        LLaVAPosition(model(pretraining_tp=2), StepLoss(2))


def test_another_class_is_refused_by_name() -> None:
    other = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"LlavaLlamaForCausalLM.*got GPT2LMHeadModel"):
        LLaVAPosition(other, StepLoss(2))


@pytest.mark.parametrize("head", [adapted_head, quantised_head])
def test_a_head_that_is_no_plain_product_is_refused_at_the_linear_level(head) -> None:
    with pytest.raises(ValueError, match=r'level="linear": lm_head is a .*level="logits"'):
        LLaVAPosition(head(), StepLoss(2), "linear")


@pytest.mark.parametrize("head", [adapted_head, quantised_head, model])
def test_auto_takes_the_level_that_is_exact(head) -> None:
    made = head()
    truth = expected(made)
    found, position = loss(made, "auto")
    assert position.level == ("linear" if head is model else "logits")
    assert position.reason
    assert found.item() == pytest.approx(truth.item(), rel=1e-6)


def test_labels_other_than_the_counted_ones_raise() -> None:
    made, step_loss = model(), StepLoss(2)
    position = LLaVAPosition(made, step_loss)
    step_loss.begin_step(torch.ones(2), torch.tensor(6.0))
    with pytest.raises(ValueError, match="that were counted"), position.micro_batch(_IDS + 1, _IDS[:, 0] * 0):
        made(input_ids=_IDS, labels=_IDS)
    shorter = position.micro_batch(_IDS[:, :3], _IDS[:, 0] * 0)
    with pytest.raises(ValueError, match="counted before the pass"), shorter:
        made(input_ids=_IDS, labels=_IDS)


def test_restore_gives_the_model_its_own_code_back() -> None:
    made = model()
    before = made(input_ids=_IDS, labels=_IDS).loss
    _, position = loss(made, "auto")
    assert "forward" in vars(made)
    position.restore()
    assert "forward" not in vars(made)
    assert "forward" not in vars(made.lm_head)
    assert "prepare_inputs_labels_for_multimodal" not in vars(made)
    assert made(input_ids=_IDS, labels=_IDS).loss.equal(before)
