"""A model that ms-swift trained, with the template of its training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swift.arguments import BaseArguments
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
from swift.pipelines.utils import prepare_model_template

from cotbal.integrations.answering.questions import Batch, Question

# What makes a prompt, beside what ms-swift itself takes from the training's arguments.
_OF_TRAINING = ("max_pixels", "enable_thinking", "preserve_thinking", "add_non_thinking_prefix")


class Asked(NamedTuple):
    """A batch.

    Attributes:
        number: of the batch.
        requests: its questions, as ms-swift's engine takes them.
    """

    number: int
    requests: list[InferRequest]


class Chat:
    """A model that ms-swift trained, with its template.

    Args:
        engine: ms-swift's own.
    """

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine

    def prompts(
        self, questions: Sequence[Question], batches: Sequence[Batch], wanted: Sequence[int], folder: Path
    ) -> list[Asked]:
        """The wanted batches.

        Raises:
            ValueError: a picture for a model that takes none.
        """
        pictured = next((question for question in questions if question.image is not None), None)
        if pictured is not None and not self.engine.model_meta.is_multimodal:
            raise ValueError(
                f"question {pictured.id!r}: expected no picture, as the model takes text alone, got "
                f"{pictured.image}"
            )
        return [Asked(n, [request_of(questions[place], folder) for place in batches[n]]) for n in wanted]

    def answer(self, asked: Asked, most: int) -> tuple[list[str], int]:
        """The greedy answers to a batch, and how many of them were cut at `most` new tokens."""
        # The checkpoint's own penalty would be taken otherwise.
        greedy = RequestConfig(max_tokens=most, temperature=0, repetition_penalty=1.0)
        answers = [each.choices[0] for each in self.engine.infer(asked.requests, greedy, use_tqdm=False)]
        # ms-swift counts the empty thoughts to the answer.
        before = self.engine.template.response_prefix or ""
        texts = [each.message.content.removeprefix(before).strip() for each in answers]
        return texts, sum(each.finish_reason == "length" for each in answers)


def request_of(question: Question, folder: Path) -> InferRequest:
    """A question as LLaVA's records ask it: the picture, a new line, the text."""
    if question.image is None:
        return InferRequest([{"role": "user", "content": question.text}])
    content = f"<image>\n{question.text}"
    return InferRequest(
        [{"role": "user", "content": content}], images=[str((folder / question.image).resolve())]
    )


def load_chat(checkpoint: Path, base: str | None = None, *, batch_size: int = 1) -> Chat:
    """The model of a checkpoint on this process's device, with the template of its training.

    Args:
        checkpoint: the folder.
        base: of a LoRA; None: what it was trained on.
        batch_size: questions at once.

    Raises:
        ValueError: the folder is none that ms-swift wrote.
    """
    trained = _arguments(checkpoint)
    adapts = (checkpoint / "adapter_config.json").is_file()
    # A prompt that is too long is an error and not cut.
    args: Any = BaseArguments(
        model=base if adapts else str(checkpoint),
        adapters=[str(checkpoint)] if adapts else [],
        truncation_strategy="delete",
        **{name: trained[name] for name in _OF_TRAINING if name in trained},
    )
    if args.response_prefix is None and not args.enable_thinking:
        # What the training put before each answer of a model that can think, and not what ms-swift would now.
        thinks = args.use_chat_template and args.add_non_thinking_prefix
        args.response_prefix = args.template_meta.non_thinking_prefix if thinks else ""
    model, template = prepare_model_template(args)
    return Chat(TransformersEngine(model, template=template, max_batch_size=batch_size))


def _arguments(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "args.json"
    if not path.is_file():
        raise ValueError(
            f"--model: expected a checkpoint of ms-swift, with its args.json, got {checkpoint}; of another "
            "trainer, ask it by cotbal.integrations.huggingface.generate"
        )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
