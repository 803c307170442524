"""`cotbal.patch` on PEFT's model: its call hands the tasks on to the model within."""

from typing import Any

import peft
import pytest
import torch

import cotbal
from tests.integrations.huggingface.model_losses import BOUND, batch, eq2, micro_batches, model, relative
from tests.integrations.huggingface.training import TASKS, WEIGHTS

# PEFT 0.21 reads what transformers 5.23 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted() -> Any:
    """With an adapter whose every weight is random: a new one adds nothing."""
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    made = peft.get_peft_model(model(), config).double().train()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_a_patched_lora_model_is_eq_2() -> None:
    ours, theirs = adapted(), adapted()
    with cotbal.patch(ours, weights=WEIGHTS, tasks=TASKS, denominator="micro") as handle:
        assert "LlamaForCausalLM: linear level" in repr(handle)
        for rows in micro_batches():
            loss, expected = ours(**batch(rows)).loss, eq2(theirs, rows)
            assert relative(loss, expected) <= BOUND
        loss.backward()
        expected.backward()
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        trained = [(a.grad, b.grad) for a, b in pairs if b.requires_grad]
        assert trained
        assert all(relative(a, b) <= 10 * BOUND for a, b in trained)
    assert "forward" not in vars(ours.get_base_model())
    assert abs(eq2(model(), rows).item() / loss.item() - 1) > 1e-3, "the adapter adds nothing"
