"""What a model's outputs hold in place of logits at the linear level: who asks for them is told why."""

from typing import Any, NoReturn

from transformers.utils import ModelOutput

_MESSAGE = (
    'logits: expected level="logits" where training looks at them, got the linear level, which never holds '
    'them: pass level="logits" to the trainer or to cotbal.patch'
)


class NoLogitsError(ValueError, AttributeError, TypeError):
    """The logits of a training batch were asked for at the linear level."""


class NoLogits:
    """Stands where the logits would be; whatever is done with it raises `NoLogitsError`."""

    def __getattr__(self, name: str) -> NoReturn:
        # An AttributeError as well, so that hasattr is answered.
        raise NoLogitsError(_MESSAGE)

    def __getitem__(self, key: Any) -> NoReturn:
        raise NoLogitsError(_MESSAGE)

    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise NoLogitsError(_MESSAGE)


def without_logits(outputs: Any) -> Any:
    """The outputs of a model, with `NoLogits` in place of its logits of width 0."""
    if isinstance(outputs, ModelOutput) and "logits" in outputs:
        outputs["logits"] = NoLogits()
    return outputs
