"""A Hugging Face chat model with its processor, and its greedy answers to a batch of questions."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GenerationConfig

from cotbal.integrations.answering.questions import Batch, Question, picture_of
from cotbal.integrations.dialogues import IMAGE
from cotbal.integrations.huggingface.chat_template import (
    ChatTemplate,
    config_of,
    kind_of,
    load_template,
    pieces_of,
)
from cotbal.integrations.huggingface.restored import DTYPE

_ADAPTER = "adapter_config.json"


class Asked(NamedTuple):
    """A batch, ready for the model.

    Attributes:
        number: of the batch.
        inputs: what the processor makes, `input_ids` (B, S) padded on the left among it.
    """

    number: int
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Chat:
    """A model that is loaded.

    Attributes:
        model: in evaluation mode, its generation greedy.
        template: writes its prompts.
    """

    model: Any
    template: ChatTemplate

    def prompts(
        self, questions: Sequence[Question], batches: Sequence[Batch], wanted: Sequence[int], folder: Path
    ) -> "Prompts":
        """The wanted batches, as the chat template and the processor make them.

        Raises:
            ValueError: a picture for a model that takes none.
        """
        pictured = next((question for question in questions if question.image is not None), None)
        if pictured is not None and not self.template.sees:
            raise ValueError(
                f"question {pictured.id!r}: expected no picture, as {type(self.model).__name__} takes text "
                f"alone, got {pictured.image}"
            )
        text = self.model.config.get_text_config()
        asked = [[questions[n] for n in batches[number]] for number in wanted]
        positions = getattr(text, "max_position_embeddings", None)
        prompts = Prompts(self.template, positions, list(zip(wanted, asked, strict=True)), folder)
        if os.environ.get("RANK", "0") == "0":
            print(f"cotbal: the first prompt: {prompts.text(0)!r}", file=sys.stderr, flush=True)
        return prompts

    def answer(self, asked: Asked, most: int) -> tuple[list[str], int]:
        """The greedy answers to a batch, and how many of them were cut at `most` new tokens."""
        model = self.model
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            for name, value in asked.inputs.items()
        }
        with torch.inference_mode():
            output: Tensor = model.generate(**inputs, max_new_tokens=most)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = [self.said(row) for row in new]
        ends = torch.tensor(model.generation_config.eos_token_id, device=new.device)
        ended = torch.isin(new, ends).any(dim=1)
        return texts, int((~ended).sum()) if new.shape[1] >= most else 0

    @cached_property
    def _before(self) -> str:
        return self.template.before_answers()

    def said(self, new: Tensor) -> str:
        """The answer in the new tokens (S,), without what the template has before each answer.

        Spaces stay as they are: transformers 4 takes those before a comma away where a tokenizer says so.
        """
        decode = partial(self.template.tokenizer.decode, clean_up_tokenization_spaces=False)
        skipped = 0
        if self._before and decode(new).lstrip().startswith(self._before):
            lengths = range(1, len(new) + 1)
            skipped = next(n for n in lengths if decode(new[:n]).lstrip().startswith(self._before))
        return str(decode(new[skipped:], skip_special_tokens=True)).strip()


class Prompts(Dataset[Asked]):
    """Batches of questions, made where they are loaded; a process that does so needs no model.

    Args:
        template: writes them.
        positions: that the model has; None where nothing tells.
        wanted: number and questions of each batch.
        folder: of the pictures.
    """

    def __init__(
        self,
        template: ChatTemplate,
        positions: int | None,
        wanted: Sequence[tuple[int, Sequence[Question]]],
        folder: Path,
    ) -> None:
        self._template, self._positions = template, positions
        self._wanted, self._folder = wanted, folder

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, place: int) -> Asked:
        """The batch.

        Raises:
            ValueError: a prompt is longer than the model's positions, or the picture's file is none.
        """
        number, asked = self._wanted[place]
        pictures = [self._pictures(question) for question in asked]
        texts = [self._written(question) for question in asked]
        given: dict[str, Any] = {"images": pictures} if any(pictures) else {}
        inputs = self._template.processor(
            text=texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not self._template.begins(texts[0]),
            **given,
        )
        for question, length in zip(asked, inputs["attention_mask"].sum(dim=1).tolist(), strict=True):
            if self._positions is not None and length > self._positions:
                raise ValueError(
                    f"question {question.id!r}: expected at most {self._positions} tokens, which are the "
                    f"model's positions, got {length}"
                )
        return Asked(number, dict(inputs))

    def text(self, place: int) -> str:
        """The first prompt of a batch as the chat template writes it, a picture as its placeholder."""
        return self._written(self._wanted[place][1][0])

    def _written(self, question: Question) -> str:
        template, pieces = self._template, pieces_of(question.text)
        if len(pieces) == 1 and question.image is not None:
            pieces = ["", question.text]
        if len(pieces) != 1 + (question.image is not None):
            raise ValueError(
                f"question {question.id!r}: expected {IMAGE} once at most, and with a picture alone, got "
                f"{question.text[:80]!r}"
            )
        try:
            return template.written([*template.opening(), template.message("user", pieces)], asks=True)
        except ValueError as error:
            raise ValueError(f"question {question.id!r}: {error}") from error

    def _pictures(self, question: Question) -> list[Any]:
        return [] if question.image is None else [picture_of(question, self._folder)]


def load_chat(
    model: str,
    base: str | None,
    device: torch.device,
    *,
    dtype: str = "auto",
    attention: str | None = None,
    template: str | None = None,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
    newline: bool = False,
    pictures: Mapping[str, Any] | None = None,
) -> Chat:
    """A model, or a LoRA on its base model, ready to answer greedily.

    Args:
        model: a folder that a training wrote, or a name of the hub.
        base: the model that a LoRA belongs to (by default what the LoRA names), and whose processor is taken
            where the folder has none.
        device: where to.
        dtype: `auto` is bfloat16 on a GPU, float16 where the model was saved so, and float32 on a CPU.
        attention: an `attn_implementation` of transformers; None: its own choice.
        template: a chat template (Jinja) in place of the model's.
        system: a system message.
        variables: of the chat template.
        newline: whether a picture's question is on a line of its own, as LLaVA's records have it.
        pictures: settings of the image processor in place of its own.

    Raises:
        ImportError: a LoRA, and no PEFT.
        OSError, ValueError: no such model, none that chats, or one without processor or chat template.
    """
    adapter = Path(model) / _ADAPTER
    weights = model
    if adapter.is_file():
        weights = base or json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    config = config_of(weights, "--base" if adapter.is_file() else "--model")
    kind = kind_of(config)
    words = load_template(
        [model, base or weights],
        kind,
        template=template,
        system=system,
        variables=variables,
        newline=newline,
        pictures=pictures,
    )
    # The end of a prompt has to be at the end of its row.
    words.tokenizer.padding_side = "left"
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    options[DTYPE] = _dtype(dtype, config, device)
    loaded = kind.model.from_pretrained(weights, **options)
    # Before PEFT wraps it, whose generate may be its own.
    loaded.generation_config = _greedy(loaded.generation_config, words.tokenizer)
    if adapter.is_file():
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ImportError(f"{model}: a LoRA needs PEFT: pip install peft") from error
        loaded = PeftModel.from_pretrained(loaded, model)
    loaded.to(device).eval()
    return Chat(loaded, words)


def _dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    if device.type == "cpu":
        return torch.float32
    saved = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return torch.float16 if saved is torch.float16 else torch.bfloat16


def _greedy(own: Any, tokenizer: Any) -> GenerationConfig:
    """Greedy, without what the checkpoint says of sampling or of penalties; it ends as an answer does."""
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        bos_token_id=own.bos_token_id,
        eos_token_id=[end for end in dict.fromkeys([*ends, tokenizer.eos_token_id]) if end is not None],
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
