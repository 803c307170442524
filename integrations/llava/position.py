"""The loss of a step inside one LLaVA model: in the call of its `lm_head`, on the labels that it expanded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import MethodType
from typing import Any

from torch import Tensor, nn

from cotbal.integrations.huggingface.heads import LinearLevelError, inner_model, plain_heads
from cotbal.step_loss import StepLoss
from csrc_triton.checks import require

# Classes whose forward hands the hidden states to `lm_head` once and does nothing else before the loss.
MODELS = (
    "LlamaForCausalLM",
    "LlavaLlamaForCausalLM",
    "LlavaMistralForCausalLM",
    "LlavaQwenForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
)
_PREPARE = "prepare_inputs_labels_for_multimodal"


@dataclass
class _Pass:
    """One forward pass of a training micro-batch: its labels, then whether its loss was computed."""

    labels: Tensor | None = None
    has_loss: bool = False


class LLaVAPosition:
    """Puts a `StepLoss` into the call of `lm_head` of one model, while its micro-batches run.

    `lm_head` is called as the module that it is, so that hooks which gather a sharded head fire and adapters
    are seen; it returns the loss in place of the logits. Outside of micro-batches (evaluation, generation)
    everything is the model's own.

    Args:
        model: LLaVA's model or PEFT's of one, not yet wrapped by DDP or an engine.
        step_loss: the loss of the step.
        level: "linear", "logits" or "auto", as in `cotbal.patch`.

    Attributes:
        level: "linear" or "logits".
        reason: why this level, in words.

    Raises:
        ValueError: a class or a configuration that cannot be right, or level="linear" where it is not exact.
    """

    def __init__(self, model: nn.Module, step_loss: StepLoss, level: str = "auto") -> None:
        self.model = inner_model(model)
        self.step_loss = step_loss
        self.name = type(self.model).__name__
        self._check_model()
        self.level, self.reason, heads = self._choose(level)
        self.installed = True
        self._pass: _Pass | None = None
        self._expected: Tensor | None = None
        self._undo: list[Callable[[], None]] = []
        if hasattr(self.model, _PREPARE):
            self._replace(self.model, _PREPARE, self._prepare)
        self._replace(self.model, "forward", self._forward)
        for head in heads:
            self._replace(head, "forward", self._head)

    @contextmanager
    def micro_batch(self, labels: Tensor, task_ids: Tensor, valid_count: int | None = None) -> Iterator[None]:
        """Around the model's call on a micro-batch.

        Args:
            labels: (B, S) int64, what `expanded_labels` returned for it: the denominator counts these.
            task_ids: (B,) int64.
            valid_count: as in `StepLoss.micro_batch`.
        """
        self._expected = labels
        try:
            with self.step_loss.micro_batch(task_ids, valid_count):
                yield
        finally:
            self._expected = None

    def restore(self) -> None:
        """Give the model its own code back; what wraps ours by then finds it passing everything through."""
        self.installed = False
        while self._undo:
            self._undo.pop()()

    def _check_model(self) -> None:
        if self.name not in MODELS:
            raise ValueError(
                f"model: expected one of {', '.join(MODELS)}, got {self.name}, whose loss has not been shown "
                "to be the product with lm_head alone"
            )
        parts = getattr(self.model.config, "pretraining_tp", 1)
        if parts > 1:
            raise ValueError(
                f"model: expected pretraining_tp 1 in its configuration, got {parts}: {self.name} multiplies "
                "with slices of lm_head.weight then, and never calls lm_head. Set it to 1 in config.json, "
                "which changes rounding only"
            )

    def _choose(self, level: str) -> tuple[str, str, list[nn.Module]]:
        whole = [self.model.get_output_embeddings()]
        if level == "logits":
            return level, 'level="logits" was asked for', whole
        try:
            return "linear", "lm_head is one plain product", [*plain_heads(self.model)]
        except LinearLevelError as error:
            if level == "linear":
                raise ValueError(f'level="linear": {error}') from error
            return "logits", str(error), whole

    def _replace(self, module: nn.Module, name: str, wrap: Callable[[Any], Any]) -> None:
        own = module.__dict__.get(name)
        current = getattr(module, name)
        function = getattr(current, "__func__", None)

        def run(called: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # A deep copy of the module runs with its own parameters.
            return current(*args, **kwargs) if function is None else function(called, *args, **kwargs)

        # A bound method: accelerate's autocast looks for its function.
        ours = MethodType(wraps(function or current)(wrap(run)), module)
        setattr(module, name, ours)

        def undo() -> None:
            if module.__dict__.get(name) is ours:
                delattr(module, name)
                if own is not None:
                    setattr(module, name, own)

        self._undo.append(undo)

    def _prepare(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(model: Any, *args: Any, **kwargs: Any) -> Any:
            made = own(model, *args, **kwargs)
            if self._pass is None:
                return made
            self._pass.labels = made[5]
            # Without labels the model computes no loss, and makes no float32 copy of logits for it.
            return (*made[:5], None, *made[6:])

        return prepare

    def _forward(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            if not (self.installed and self.step_loss.is_active):
                return own(model, *args, **kwargs)
            self._pass = _Pass()
            try:
                if not hasattr(model, _PREPARE):
                    self._pass.labels = kwargs.pop("labels", None)
                outputs = own(model, *args, **kwargs)
                if not self._pass.has_loss:
                    raise ValueError(
                        f"{self.name} did not call lm_head in a training pass; was it replaced since?"
                    )
            finally:
                self._pass = None
            return _with_loss(outputs)

        return forward

    def _head(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(head: Any, hidden: Tensor) -> Tensor:
            current = self._pass
            if current is None:
                return own(head, hidden)
            if current.has_loss:
                raise ValueError(f"{self.name} calls lm_head more than once in a pass; it cannot be weighted")
            labels = self._checked(current.labels, hidden)
            current.has_loss = True
            if self.level == "linear":
                return self.step_loss.on_hidden(hidden, head.weight, labels, bias=head.bias)
            return self.step_loss.on_logits(own(head, hidden), labels)

        return forward

    def _checked(self, labels: Tensor | None, hidden: Tensor) -> Tensor:
        if labels is None:
            raise ValueError(f"labels: expected them in every training batch of {self.name}, got none")
        expected = self._expected
        assert expected is not None, "a training pass runs within micro_batch"
        if labels.shape != expected.shape or labels.shape != hidden.shape[:-1]:
            raise ValueError(
                f"labels: expected the shape {tuple(expected.shape)} that was counted before the pass, got "
                f"{tuple(labels.shape)} for hidden states {tuple(hidden.shape)}: {self.name} expands its "
                "images in a way of its own, under which the denominator would be wrong"
            )
        same = labels == expected.to(labels.device, non_blocking=True)
        require(same.all(), f"labels: expected those of {self.name} that were counted; that differ", ~same)
        return labels


def _with_loss(outputs: Any) -> Any:
    """The model's outputs with what `lm_head` returned as the loss, and no logits."""
    if isinstance(outputs, tuple):
        return (outputs[0], None, *outputs[1:])
    return type(outputs)(**{**outputs, "loss": outputs.logits, "logits": None})
