"""A head that computes in float32, against which a model's own rounding of its logits is measured."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

from torch import Tensor, nn


@contextmanager
def in_float32(heads: Iterable[nn.Linear]) -> Iterator[None]:
    """The heads compute in float32 inside, from hidden states and weights as they are."""
    own = [(head, head.__dict__.get("forward")) for head in heads]

    def forward(head: nn.Linear, hidden: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.float()
        return nn.functional.linear(hidden.float(), head.weight.float(), bias)

    for head, _ in own:
        head.forward = MethodType(forward, head)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for head, before in own:
            del head.__dict__["forward"]
            head.__dict__.update({} if before is None else {"forward": before})


def heads_of(model: nn.Module) -> tuple[nn.Linear, ...]:
    """Before a loss is in them; none where there is no linear level."""
    from cotbal.integrations.huggingface.heads import LinearLevelError, inner_model, plain_heads

    try:
        return tuple(plain_heads(inner_model(model)))
    except LinearLevelError:
        return ()
