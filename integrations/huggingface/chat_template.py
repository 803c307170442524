"""The words of a chat model: its template, its processor, and where its answers end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from cotbal.integrations.dialogues import IMAGE

Message = dict[str, Any]
# Stands for an answer; nothing that a template says itself.
_ANSWER = "4f1c9b"


class Kind(NamedTuple):
    """What a model is loaded by.

    Attributes:
        model: the auto class.
        processor: likewise, of what makes its inputs.
    """

    model: Any
    processor: Any


def config_of(model: str, option: str = "--model") -> Any:
    """The configuration of a model, which may be of no known class.

    Args:
        model: a folder, or a repository's name on the Hub.
        option: what says so.

    Raises:
        ValueError: neither has one.
    """
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        # A path to no folder is to it a repository's name, wrongly spelt.
        is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
        reason = ", where no folder is" if is_path and not Path(model).is_dir() else f": {error}"
        raise ValueError(
            f"{option}: expected a model's folder, or a repository's name on the Hub, got {model}{reason}"
        ) from error


def kind_of(config: Any) -> Kind:
    """By what a model of this configuration, and its processor, are loaded."""
    if type(config) in AutoModelForImageTextToText._model_mapping:
        return Kind(AutoModelForImageTextToText, AutoProcessor)
    return Kind(AutoModelForCausalLM, AutoTokenizer)


def pieces_of(text: str) -> list[str]:
    """The texts between a turn's pictures, `<image>` each, without the line between picture and text.

    One picture comes first wherever the text has it, as in LLaVA's training and as questions are asked.
    """
    pieces = text.split(IMAGE)
    trimmed = [
        piece[piece.startswith("\n") and place > 0 :].removesuffix("\n" if place < len(pieces) - 1 else "")
        for place, piece in enumerate(pieces)
    ]
    if len(pieces) == 2:
        return ["", "\n".join(piece for piece in trimmed if piece)]
    return trimmed


@dataclass(frozen=True)
class ChatTemplate:
    """A processor with what its chat template is told.

    Attributes:
        processor: a processor, or the tokenizer of a model without pictures.
        system: the system message, if there is one.
        variables: of the chat template, such as `enable_thinking`.
        newline: whether what follows a picture is on a line of its own.
    """

    processor: Any
    system: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    newline: bool = False

    @property
    def tokenizer(self) -> Any:
        """The processor's, or itself."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def sees(self) -> bool:
        """Whether there are pictures."""
        return self.tokenizer is not self.processor

    def message(self, role: str, pieces: Sequence[str]) -> Message:
        """A message: its texts, with a picture between each two of them."""
        if not self.sees:
            # A tokenizer's template takes a text, a processor's the message in parts.
            return {"role": role, "content": "".join(pieces)}
        parts = [{"type": "text", "text": pieces[0]}] if pieces[0] or len(pieces) == 1 else []
        for piece in pieces[1:]:
            parts.append({"type": "image"})
            text = "\n" + piece if self.newline else piece
            parts += [{"type": "text", "text": text}] if text else []
        return {"role": role, "content": parts}

    def opening(self) -> list[Message]:
        """The system message, if there is one."""
        return [] if self.system is None else [self.message("system", [self.system])]

    def written(self, messages: Sequence[Message], *, asks: bool) -> str:
        """The messages as a text, a picture as its placeholder.

        Args:
            messages: made by `message`.
            asks: whether an answer is to follow.

        Raises:
            ValueError: the template refuses them, or is none.
        """
        try:
            text: str = self.processor.apply_chat_template(
                list(messages), add_generation_prompt=asks, tokenize=False, **self.variables
            )
        except TemplateError as error:
            raise ValueError(
                f"expected a chat template that takes {' '.join(each['role'] for each in messages)}, got "
                f"{type(error).__name__}: {error}; give another --chat_template, or no system message"
            ) from error
        return text

    def before_answers(self) -> str:
        """What it writes between a prompt and the answer, so that a model trained by it says that first.

        Such as a block for thoughts, empty in the records, or the name of a channel; "" where it writes
        nothing, or is none for an answer.
        """
        asked = [*self.opening(), self.message("user", ["?"])]
        try:
            prompt = self.written(asked, asks=True)
            whole = self.written([*asked, self.message("assistant", [_ANSWER])], asks=False)
        except ValueError:
            return ""
        before, found, _ = whole.removeprefix(prompt).partition(_ANSWER)
        return before.strip() if found and whole.startswith(prompt) else ""

    def begins(self, text: str) -> bool:
        """Whether a text that `written` made has its first token already.

        As `apply_chat_template` finds it, which takes these words in another place in each version.
        """
        bos = self.tokenizer.bos_token
        return not self.sees or (bos is not None and text.startswith(bos))


def load_template(
    folders: Sequence[str],
    kind: Kind,
    *,
    template: str | None = None,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
    newline: bool = False,
    pictures: Mapping[str, Any] | None = None,
) -> ChatTemplate:
    """The template of the first of these that has a processor.

    Args:
        folders: which a training wrote, or names of the hub.
        kind: `kind_of` the model.
        template: a chat template (Jinja) in place of its own.
        system: the system message.
        variables: of the chat template.
        newline: whether what follows a picture is on a line of its own.
        pictures: settings of the image processor in place of its own, such as `max_pixels`.

    Raises:
        ValueError: none has a processor, it has no chat template, or `pictures` is not for it.
    """
    made = ChatTemplate(_processor(folders, kind.processor), system, variables or {}, newline)
    if pictures:
        _set_pictures(made, pictures)
    made.tokenizer.pad_token = made.tokenizer.pad_token or made.tokenizer.eos_token
    if template is not None:
        made.processor.chat_template = template
    elif not made.processor.chat_template:
        # Of a processor that was saved by an older transformers it is with the tokenizer.
        made.processor.chat_template = made.tokenizer.chat_template
    if not made.processor.chat_template:
        raise ValueError(
            f"--model: expected a chat template in {folders[0]}, got none: the prompts would not be those of "
            "the training; give it with --chat-template"
        )
    return made


def _processor(folders: Sequence[str], kind: Any) -> Any:
    errors = []
    for name in dict.fromkeys(folders):
        if Path(name).is_dir() and not (Path(name) / "tokenizer_config.json").is_file():
            # Of some families transformers would make a tokenizer without a vocabulary.
            errors.append(f"{name}: no tokenizer_config.json")
            continue
        try:
            return kind.from_pretrained(name)
        except (OSError, ValueError) as error:
            errors.append(f"{name}: {error}")
    raise ValueError(
        "--model: expected a processor or tokenizer in the folder, as a trainer saves it, "
        f"or in that of --base, got neither: {'; '.join(errors)}"
    )


def _set_pictures(template: ChatTemplate, given: Mapping[str, Any]) -> None:
    """Makes the image processor anew, as its own class reads these settings.

    Raises:
        ValueError: there is none, or it has no such setting, or none of such a value.
    """
    own = getattr(template.processor, "image_processor", None)
    if own is None:
        raise ValueError(
            "--image-processor-kwargs: expected a model with an image processor, got one with "
            f"{type(template.processor).__name__}"
        )
    settings = {name: value for name, value in own.to_dict().items() if name != "image_processor_type"}
    known = settings.keys() | getattr(getattr(own, "valid_kwargs", None), "__annotations__", {})
    # transformers takes other names too, and leaves them unused.
    if unknown := sorted(given.keys() - known):
        raise ValueError(
            f"--image-processor-kwargs: expected settings of {type(own).__name__}, got {unknown[0]!r}; "
            f"it has {', '.join(sorted(known))}"
        )
    try:
        made = type(own)(**settings | dict(given))
        # Most look at their settings when there is a picture.
        made([Image.new("RGB", (64, 64))], return_tensors="pt")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--image-processor-kwargs: expected settings that {type(own).__name__} can work with, got "
            f"{dict(given)}: {error}"
        ) from error
    for name, value in given.items():
        taken = made.to_dict().get(name)
        # Before transformers 5 Qwen-VL's pixels stand over its size.
        if isinstance(value, Mapping) and isinstance(taken, Mapping) and not value.items() <= taken.items():
            raise ValueError(
                f"--image-processor-kwargs: expected settings that {type(own).__name__} takes as they are, "
                f"got {name} {dict(value)}, of which it makes {dict(taken)}; give another of its settings"
            )
    template.processor.image_processor = made
