"""What was counted before the pass is what LLaVA-NeXT's own expansion makes: padding left, other towers."""

from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integrations.llava_next import CHECKOUT

if CHECKOUT is None:
    pytest.skip("no LLaVA-NeXT: name a checkout of it in COTBAL_TEST_LLAVA_NEXT", allow_module_level=True)

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower

from cotbal.integrations.llava.expansion import check_expansion, expanded_labels

pytestmark = pytest.mark.full
# Of an image or frame of SigLIP: 27 x 27.
_SIDE = 384


@pytest.fixture
def model() -> LlavaQwenForCausalLM:
    """With SigLIP's tower, whose weights are not there: what it returns is filled in."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaQwenConfig(vocab_size=32, num_key_value_heads=2, **sizes)
    config.image_grid_pinpoints = [[384, 768], [768, 384], [768, 768], [1152, 384]]
    config.mm_spatial_pool_mode = "bilinear"
    model = LlavaQwenForCausalLM(config).train()
    model.model.vision_tower = SigLipVisionTower("siglip", None, delay_load=True)
    model.model.image_newline = torch.nn.Parameter(torch.zeros(8))

    def encode_images(self: Any, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 729, 8)

    model.encode_images = MethodType(encode_images, model)
    return model


def _batch() -> dict[str, Any]:
    """A row with a wide image, one with two images, a video, a text with its blank image."""
    rows = [[1, -200, 2, 3], [1, -200, 4, -200, 5, 6, 7], [-200, 8, 9], [10, 11, 12, 13, 14]]
    rows = [[IMAGE_TOKEN_INDEX if token == -200 else token for token in row] for row in rows]
    ids, labels = torch.zeros(4, 7, dtype=torch.long), torch.full((4, 7), IGNORE_INDEX)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(tokens) - 2 : len(tokens)] = torch.tensor(tokens[-2:])
    shapes = [
        (3, 3, _SIDE, _SIDE),
        (3, _SIDE, _SIDE),
        (3, _SIDE, _SIDE),
        (4, 3, _SIDE, _SIDE),
        (1, 3, _SIDE, _SIDE),
    ]
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": ids != 0,
        "images": [torch.zeros(shape) for shape in shapes],
        "image_sizes": [(768, 380), (384, 384), (384, 384), (500, 400), (384, 384)],
        "modalities": ["image", "image", "image", "video", "text"],
    }


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("aspect", ["anyres", "anyres_max_1"])
@pytest.mark.parametrize("length", [4096, 900])
def test_siglip(model: LlavaQwenForCausalLM, side: str, aspect: str, length: int) -> None:
    model.config.tokenizer_padding_side, model.config.tokenizer_model_max_length = side, length
    model.config.mm_patch_merge_type, model.config.image_aspect_ratio = "spatial_unpad", aspect
    batch = _batch()
    counted = expanded_labels(model, batch)
    own = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"],
        None,
        batch["attention_mask"],
        None,
        batch["labels"],
        batch["images"],
        batch["modalities"],
        batch["image_sizes"],
    )[5]
    assert torch.equal(counted, own)
    assert (counted[:, 0] == IGNORE_INDEX).all()
    assert (counted != IGNORE_INDEX).sum() == (8 if length == 4096 else 4)


def test_a_projector_that_pools_is_refused(model: LlavaQwenForCausalLM) -> None:
    check_expansion(model)
    model.config.mm_projector_type = "pooler"
    with pytest.raises(ValueError, match=r"mm_projector_type: expected one that keeps .*, got 'pooler'"):
        check_expansion(model)


def test_a_tower_that_does_not_tell_its_patches_is_refused(model: LlavaQwenForCausalLM) -> None:
    model.model.vision_tower = torch.nn.Identity()
    with pytest.raises(
        ValueError, match=r"vision_tower: expected one that tells its patches .*, got Identity"
    ):
        check_expansion(model)


def test_counting_draws_no_positions(model: LlavaQwenForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model.config.use_pos_skipping, model.config.image_aspect_ratio = True, "anyres"
    monkeypatch.setattr("random.randint", lambda *_: pytest.fail("a draw"))
    expanded_labels(model, _batch())
