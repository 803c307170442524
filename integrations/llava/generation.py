"""A LLaVA checkpoint, loaded by LLaVA's own loader, and its greedy answers to a batch of questions."""

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cotbal.integrations.answering.questions import Batch, Question, picture_of
from cotbal.integrations.dialogues import IMAGE
from cotbal.integrations.llava.expansion import expanded_labels


class Checkpoint(NamedTuple):
    """What LLaVA's loader gives.

    Attributes:
        tokenizer, model, processor: its own.
        dtype: of the model.
    """

    tokenizer: Any
    model: Any
    processor: Any
    dtype: torch.dtype


class Asked(NamedTuple):
    """A batch, ready for the model.

    Attributes:
        number: of the batch.
        input_ids: (B, S), padded on the left.
        mask: (B, S), 0 where padded.
        images: (B, 3, H, W), or one tensor for each; None where the questions have no pictures.
        sizes: width and height of each picture.
    """

    number: int
    input_ids: Tensor
    mask: Tensor
    images: Any
    sizes: list[tuple[int, int]] | None


def load_checkpoint(
    package: ModuleType, model: str, base: str | None, device: torch.device, flash: bool
) -> Checkpoint:
    """The model as LLaVA evaluates it: in float16 on a GPU; on the CPU what float16 leaves, as float32.

    Args:
        package: `llava`.
        model: a folder that LLaVA's training wrote, or a name of the hub.
        base: the model that a LoRA or a projector belongs to; by default what the LoRA names.
        device: where to.
        flash: whether to use flash-attn.

    Raises:
        ImportError: another LLaVA, whose loader is another one.
        OSError, ValueError: there is no such model, or it is none of LLaVA's.
    """
    builder = importlib.import_module(f"{package.__name__}.model.builder")
    if "device" not in inspect.signature(builder.load_pretrained_model).parameters:
        raise ImportError(
            f"{package.__name__}: expected the loader of LLaVA v1.5, 1.2.0 or newer, got another; LLaVA-NeXT "
            "has an evaluation of its own"
        )
    name, base = loader_name(package, model, base)
    options = {"use_flash_attn": True} if flash else {}
    # LLaVA's loader puts the vision tower where `device_map` says, which has to be one device.
    tokenizer, loaded, processor, _ = builder.load_pretrained_model(
        model, base, name, device_map=str(device), device=device.type, **options
    )
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    loaded.to(dtype).eval()
    # The end of a prompt has to be at the end of its row.
    loaded.config.tokenizer_padding_side = "left"
    return Checkpoint(tokenizer, loaded, processor, dtype)


def loader_name(package: ModuleType, model: str, base: str | None) -> tuple[str, str | None]:
    """The name by which LLaVA's loader tells models apart, from what is in the folder, and the base model.

    Raises:
        ValueError: the folder holds no model of LLaVA's.
    """
    folder = Path(model)
    if not folder.is_dir():
        named: str = importlib.import_module(f"{package.__name__}.mm_utils").get_model_name_from_path(model)
        return named, base
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--model: expected LLaVA's config.json in {folder}, got {error!r}") from error
    if "llava" not in kind:
        raise ValueError(f"--model: expected a LLaVA in {folder}, got a model of type {kind!r}")
    name = f"llava_{kind}"
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        name += "_lora"
        base = base or json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    return name, base


class Prompts(Dataset[Asked]):
    """The batches of questions as LLaVA's conversation template and image processing make them.

    Args:
        package: `llava`.
        checkpoint: whose prompts.
        questions: all of them.
        batches: their places, batch after batch.
        wanted: the numbers of the batches to make.
        folder: of the pictures.
        template: a name of LLaVA's `conv_templates`.

    Raises:
        ValueError: no such template, or one whose answers do not end with the tokenizer's own end; a question
            with an `<image>` of its own.
    """

    def __init__(
        self,
        package: ModuleType,
        checkpoint: Checkpoint,
        questions: Sequence[Question],
        batches: Sequence[Batch],
        wanted: Sequence[int],
        folder: Path,
        template: str,
    ) -> None:
        for question in questions:
            # LLaVA would look for another picture there: the next question's, or none.
            if IMAGE in question.text:
                raise ValueError(
                    f"question {question.id!r}: expected a text without {IMAGE}, put before it where it "
                    f"has a picture, got {question.text[:60]!r}; take it out"
                )
        self._checkpoint, self._folder = checkpoint, folder
        self._questions, self._batches, self._wanted = questions, batches, wanted
        self._tools = importlib.import_module(f"{package.__name__}.mm_utils")
        self._template = _template(package, template, checkpoint.tokenizer)

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, place: int) -> Asked:
        number = self._wanted[place]
        asked = [self._questions[n] for n in self._batches[number]]
        rows = [self.input_ids(question) for question in asked]
        longest = max(map(len, rows))
        pad = self._checkpoint.tokenizer.pad_token_id or 0
        input_ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for n, row in enumerate(rows):
            input_ids[n, longest - len(row) :], mask[n, longest - len(row) :] = row, 1
        batch = Asked(number, input_ids, mask, None, None)
        if asked[0].image is not None:
            pictures = [picture_of(question, self._folder) for question in asked]
            config = self._checkpoint.model.config
            images = self._tools.process_images(pictures, self._checkpoint.processor, config)
            batch = batch._replace(images=images, sizes=[picture.size for picture in pictures])
        self._check_lengths(asked, batch)
        return batch

    def input_ids(self, question: Question) -> Tensor:
        """The prompt (S,) of a question, up to where the answer begins."""
        config = self._checkpoint.model.config
        text = question.text
        if question.image is not None:
            start_end = getattr(config, "mm_use_im_start_end", False)
            text = f"{f'<im_start>{IMAGE}<im_end>' if start_end else IMAGE}\n{text}"
        talk = self._template.copy()
        talk.append_message(talk.roles[0], text)
        talk.append_message(talk.roles[1], None)
        ids: Tensor = self._tools.tokenizer_image_token(
            talk.get_prompt(), self._checkpoint.tokenizer, return_tensors="pt"
        )
        return ids

    def _check_lengths(self, asked: Sequence[Question], batch: Asked) -> None:
        """Raises ValueError where a prompt is longer than the model takes: LLaVA would cut its end off."""
        model = self._checkpoint.model
        most = getattr(model.config, "tokenizer_model_max_length", None)
        is_text = (batch.mask == 1) & (batch.input_ids >= 0)
        sent: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.mask}
        sent |= {"images": batch.images, "image_sizes": batch.sizes}
        # With its pictures put in, by the model's own code, which makes thousands of rows of a large one.
        made = expanded_labels(model, sent | {"labels": batch.input_ids.where(is_text, -100)})
        is_cut = (made != -100).sum(dim=1) < is_text.sum(dim=1)
        for question, whole, cut in zip(asked, is_text.sum(dim=1), is_cut, strict=True):
            if cut or (most is not None and whole > most):
                with_picture = "" if question.image is None else " with its picture"
                raise ValueError(
                    f"question {question.id!r}: expected a prompt of at most {most} tokens{with_picture}, "
                    "got a longer one; shorten its text, or take it out"
                )


def answer(checkpoint: Checkpoint, asked: Asked, most: int) -> tuple[list[str], int]:
    """The greedy answers to a batch, and how many of them were cut at `most` new tokens."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    images: Any = None
    if asked.images is not None:
        move = {"device": model.device, "dtype": checkpoint.dtype}
        is_tensor = isinstance(asked.images, Tensor)
        images = asked.images.to(**move) if is_tensor else [image.to(**move) for image in asked.images]
    with torch.inference_mode():
        # Greedy; the others only silence what the checkpoint's own generation settings would say.
        output: Tensor = model.generate(
            asked.input_ids.to(model.device),
            images=images,
            image_sizes=asked.sizes,
            attention_mask=asked.mask.to(model.device),
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            num_beams=1,
            max_new_tokens=most,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            use_cache=True,
        )
    texts = [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
    ended = (output == tokenizer.eos_token_id).any(dim=1)
    return texts, int((~ended).sum()) if output.shape[1] >= most else 0


def _template(package: ModuleType, name: str, tokenizer: Any) -> Any:
    module = importlib.import_module(f"{package.__name__}.conversation")
    if name not in module.conv_templates:
        raise ValueError(f"--conv-mode: expected one of {', '.join(module.conv_templates)}, got {name!r}")
    template = module.conv_templates[name]
    end = template.sep2 or template.sep
    if end != tokenizer.eos_token:
        raise ValueError(
            f"--conv-mode: expected a template whose answers end with {tokenizer.eos_token!r}, as the "
            f"model's do, got {name!r} with {end!r}"
        )
    return template
