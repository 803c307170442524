"""Settings of the image processor: pictures of fewer tokens, in the training and where its model answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig
from transformers.utils import is_torchvision_available

from cotbal.integrations.huggingface import generate
from cotbal.integrations.huggingface.chat_template import kind_of, load_template
from tests.integrations.huggingface.chat_world import World, make_world
from tests.integrations.huggingface.finetune.families import Made, idefics3
from tests.integrations.huggingface.finetune.vision_families import VISION_FAMILIES
from tests.integrations.huggingface.finetune.world import mixture, record, run, words, write

pytestmark = pytest.mark.filterwarnings("ignore")
_QWEN = "Qwen2_5_VLForConditionalGeneration"


def _write(folder: Path, made: Made) -> list[str]:
    """A model, a picture, and the words that name the records of it."""
    for part in made:
        part.save_pretrained(folder / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0.png")
    records = [
        record(0, ("what is it", "number one"), image="0.png"),
        record(1, ("what", "it"), task="chat"),
    ]
    return write(folder, records)


def _asked(folder: Path, out: Path, **options: object) -> list[str]:
    asked = words(World(folder, folder, folder), folder / "model", out, max_steps=1, save_steps=1)
    return [*asked, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def _tokens(model: Path, picture: Path, given: dict[str, Any] | None = None) -> int:
    """Those of a prompt with the picture."""
    template = load_template([str(model)], kind_of(AutoConfig.from_pretrained(model)), pictures=given)
    text = template.written([template.message("user", ["", "what"])], asks=True)
    inputs = template.processor(text=[text], images=[[Image.open(picture)]], return_tensors="pt")
    return inputs["input_ids"].shape[1]


def _qwen() -> Made:
    return VISION_FAMILIES[_QWEN]()


@pytest.mark.parametrize(
    ("family", "given"),
    [
        (idefics3, {"do_image_splitting": False}),
        pytest.param(
            _qwen,
            {"max_pixels": 2 * 28**2},
            marks=pytest.mark.skipif(
                not (is_torchvision_available() and hasattr(transformers, _QWEN)), reason="make test-vision"
            ),
        ),
    ],
)
def test_they_are_saved_with_the_model(
    family: Callable[[], Made],
    given: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    files = _write(tmp_path, family())
    model, out, picture = tmp_path / "model", tmp_path / "out", tmp_path / "0.png"
    own, fewer = _tokens(model, picture), _tokens(model, picture, given)
    assert fewer < own
    assert run([*files, *_asked(tmp_path, out, image_processor_kwargs=json.dumps(given))]) == 0
    assert _tokens(out, picture) == fewer
    # A training that goes on must see the pictures as before.
    capsys.readouterr()
    assert run([*files, *_asked(tmp_path, out, max_steps=2)]) == 2
    assert "with another image_processor_kwargs" in capsys.readouterr().err


def test_a_question_is_asked_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model whose folder has others; answers under others are not gone on with."""
    torch.manual_seed(0)
    _write(tmp_path, idefics3())
    (tmp_path / "q.jsonl").write_text('{"question_id": 0, "text": "what", "image": "0.png"}\n')
    given = {"model": "model", "questions": "q.jsonl", "image-folder": ".", "out": "a.jsonl"}
    asked = [word for name, value in given.items() for word in (f"--{name}", str(tmp_path / value))]
    asked += ["--max-new-tokens", "2"]
    fewer = ["--image-processor-kwargs", '{"do_image_splitting": false}']
    assert generate.main([*asked, *fewer]) == 0
    assert generate.main(asked) == 2
    assert "image_processor_kwargs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[]", "--image_processor_kwargs: expected a JSON object, got '[]'"),
        ('{"max_pixel": 784}', ", got 'max_pixel'; it has "),
        ('{"size": "x"}', " can work with, got {'size': 'x'}: "),
    ],
)
def test_what_no_image_processor_has(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = _write(tmp_path, idefics3())
    assert run([*files, *_asked(tmp_path, tmp_path / "out", image_processor_kwargs=given)]) == 2
    assert said in capsys.readouterr().err


_AS_THEY_ARE = '{"do_resize": false, "do_center_crop": false}'


@pytest.mark.parametrize(
    ("given", "batch", "said"),
    [
        (_AS_THEY_ARE, 2, "expected pictures of which it makes one batch, got those of "),
        (_AS_THEY_ARE, 1, "expected pictures of a size that CLIPVisionModel takes, as 28 x 28, got "),
        (
            '{"crop_size": 3}',
            2,
            "expected pictures of a size that CLIPVisionModel takes, as 28 x 28, got 3 x 3: ",
        ),
    ],
)
def test_pictures_that_the_model_does_not_take(
    given: str, batch: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each alone is one that the processor makes something of."""
    world = make_world(tmp_path / "world")
    files = write(tmp_path, mixture())
    options = {"image_processor_kwargs": given, "per_device_train_batch_size": batch}
    assert run([*files, *words(world, world.vision, tmp_path / "out", **options)]) == 2
    assert f"cotbal: --image_processor_kwargs: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_text_has_none(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    kind = kind_of(AutoConfig.from_pretrained(world.text))
    with pytest.raises(ValueError, match="expected a model with an image processor, got one with "):
        load_template([str(world.text)], kind, pictures={"max_pixels": 784})
