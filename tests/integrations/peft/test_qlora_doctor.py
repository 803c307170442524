"""What `cotbal doctor` says of quantised models."""

import json
from pathlib import Path

import pytest
import torch

from cotbal.doctor import compare, load_model, packages, random_batch
from tests.integrations.huggingface.training import tiny_model
from tests.integrations.peft.quantised import KINDS, adapted, quantised, trained

pytest.importorskip("bitsandbytes")
# PEFT 0.21 reads what transformers 5.23 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOLERANCES = {"nf4 in bfloat16": 2e-2, "nf4 in float32": 1e-5, "int8": 1e-5}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_computes_in_bfloat16_is_told_by_its_layers(kind: str, seed: int) -> None:
    """Its parameters are float32 and packed bytes: of themselves they would promise too much."""
    model = adapted(quantised(tiny_model(seed=seed), kind))
    found = compare(model, random_batch(model, seed))
    assert found.level == "linear"
    assert found.tolerance == TOLERANCES[kind]
    assert found.agrees
    # No loss of ours is let off: it comes before the body's backward pass.
    assert all(each.loss_error <= 1e-6 for each in found.passes[1::2])


def test_adapters_in_bfloat16() -> None:
    """As TRL casts those of a quantised model."""
    model = adapted(quantised(tiny_model(), "int8"))
    for parameter in trained(model):
        parameter.data = parameter.data.bfloat16()
    found = compare(model, random_batch(model))
    assert found.agrees
    assert found.tolerance == 2e-2


def test_a_quantised_head_is_told() -> None:
    model = adapted(quantised(tiny_model(), "nf4 in float32", llm_int8_skip_modules=[]))
    found = compare(model, random_batch(model))
    assert found.agrees
    assert found.level == "logits"
    assert "Linear4bit" in found.reason


def test_a_configuration_alone_is_looked_at_without_its_quantisation(tmp_path: Path) -> None:
    """In which the head may be: the level of the random model says nothing of that one's."""
    model = quantised(tiny_model(), "nf4 in float32", llm_int8_skip_modules=[])
    model.save_pretrained(tmp_path)
    whole = load_model(tmp_path)
    found = compare(whole, random_batch(whole))
    assert found.level == "logits"
    assert "quantization_config" not in found.reason
    (tmp_path / "model.safetensors").unlink()
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["load_in_4bit"]
    random = load_model(tmp_path)
    found = compare(random, random_batch(random))
    assert found.level == "linear"
    assert "without the quantization_config" in found.reason


def test_the_version_is_told() -> None:
    found = {each.name: each for each in packages()}
    assert found["bitsandbytes"].installed
    assert torch.__version__.startswith(str(found["torch"].installed))
