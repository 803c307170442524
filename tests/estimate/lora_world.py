"""The digit world's runs with LoRA adapters on the language model: the tower and all else of it frozen.

The projector is trained too, as LLaVA does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import LlavaForConditionalGeneration

from cotbal.demo import job
from cotbal.demo.profiles import Profile
from cotbal.demo.train import Report
from tests.estimate import double_world

__all__ = ["FUNCTION", "double_world", "run"]

FUNCTION = f"{__name__}:run"
RANK = 16
# The recipe's learning rate is for all parameters; adapters want more, and this scales what they add.
ALPHA = 10 * RANK
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_starting_model = job._starting_model


def run(settings: Mapping[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """As `cotbal.demo.job.run`, a training of adapters."""
    with patch.object(job, "_starting_model", _with_adapters):
        return job.run(settings, folder, report)


def _with_adapters(profile: Profile, settings: Mapping[str, Any]) -> LlavaForConditionalGeneration:
    model = _starting_model(profile, settings)
    model.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LAYERS, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        inject_adapter_in_model(config, model.model.language_model)
    model.model.multi_modal_projector.requires_grad_(True)
    return model
