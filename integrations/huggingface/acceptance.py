"""Whether the linear level is exact for a class: both levels on one random batch of hidden states.

The two levels differ only between the body's hidden states and the loss. So the class's own `forward` runs
with a stand-in for its body, which returns random hidden states, and one for its head, of random weights:
cheap for a model of any size, whatever inputs it takes, and possible where its parameters are sharded or not
there at all. The model itself is not called; its gradients, buffers, mode and the random state stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from cotbal._draws import own_draws
from cotbal.integrations.huggingface.loss_position import LogitShape, LossPosition, NoLossFunctionError
from cotbal.integrations.huggingface.routers import router_coefficient
from cotbal.step_loss import StepLoss

TOLERANCE = 1e-5

# Width of the hidden states: the code after the body does not know it, and the vocabulary stays as it is.
_WIDTH = 16
_ROWS = (2, 8)
# Raw logits deviate by so much that a softcap of 30 changes them, and one of 300 is not missed.
_DEVIATION = 30.0
# What configurations call the factor of the logits, and whether it may stand for its inverse as well.
_SCALES = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")


class NotExactError(ValueError):
    """Why the two levels differ, or why that cannot be found out."""


def accepted_shape(model: Any) -> LogitShape:
    """What the class does to the head's product, with which the linear level is exact.

    Args:
        model: what `inner_model` returns, with a plain head.

    Raises:
        NotExactError: no shape agrees to 1e-5, or the class's forward does not run on a stand-in body.
        NoLossFunctionError: the class computes its loss elsewhere.
    """
    try:
        return _accepted(model)
    except (NotExactError, NoLossFunctionError):
        raise
    except Exception as error:  # a class's own code may fail with anything
        raise NotExactError(
            f"{type(model).__name__} could not be checked without its body ({type(error).__name__}: {error})"
        ) from error


def _accepted(model: Any) -> LogitShape:
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        batch = _Batch.random(model)
        expected = batch.run(model)
        smallest = float("inf")
        for shape in _shapes(model):
            error = batch.error(batch.run(model, shape), expected)
            if error <= TOLERANCE:
                return shape
            smallest = min(smallest, error)
    raise NotExactError(
        f"{type(model).__name__}: on a random batch the linear level is off by {smallest:.1e}, more than "
        f'{TOLERANCE:g}: it changes its logits in a way of its own; use level="logits"'
    )


def _shapes(model: Any) -> Iterator[LogitShape]:
    """The configuration's softcap and factors first, then each of them left out."""
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    named = [getattr(config, name, None) for name in _SCALES]
    factors = [float(value) for value in named if value]
    scales = [*dict.fromkeys([*factors, *(1.0 / factor for factor in factors), 1.0])]
    for cap, scale in product([softcap, None] if softcap else [None], scales):
        yield LogitShape(cap, scale)


@dataclass(frozen=True)
class _Batch:
    """Random hidden states, head, labels and tasks, all on the CPU in float32."""

    hidden: Tensor
    head: nn.Linear
    labels: Tensor
    task_ids: Tensor

    @classmethod
    def random(cls, model: Any) -> "_Batch":
        own = model.get_output_embeddings()
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int, deviation: float = 1.0) -> Tensor:
            values = torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu")
            return (deviation * values).requires_grad_()

        head = nn.Linear(_WIDTH, own.out_features, bias=own.bias is not None, device="meta")
        head.weight = nn.Parameter(normal(own.out_features, _WIDTH))
        if head.bias is not None:
            head.bias = nn.Parameter(normal(own.out_features, deviation=_DEVIATION))
        labels = torch.randint(own.out_features, _ROWS, generator=draw, device="cpu")
        labels[0, :3] = -100
        hidden = normal(*_ROWS, _WIDTH, deviation=_DEVIATION / _WIDTH**0.5)
        return cls(hidden, head, labels, torch.tensor([0, 1], device="cpu"))

    def run(self, model: Any, shape: LogitShape | None = None) -> list[Tensor]:
        """The loss and its gradients for the hidden states and the head; with a shape at the linear level."""
        twin, step_loss = self._twin(model), StepLoss(2)
        # On the batch's device in its dtype, whatever torch takes by default.
        weights, denominator = self.hidden.new_tensor([0.25, 4.0]), self.hidden.new_tensor(10.0)
        step_loss.begin_step(weights, denominator)
        position = LossPosition(twin, step_loss, () if shape is None else [self.head], shape)
        position.install()
        inputs = torch.zeros_like(self.labels)
        # What the routers of a stand-in body would add is no part of the question.
        options = {} if router_coefficient(model) is None else {"output_router_logits": False}
        try:
            # Dropout between body and head draws alike in each pass.
            with own_draws(0), step_loss.micro_batch(self.task_ids):
                outputs = twin.forward(
                    input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=self.labels, **options
                )
        finally:
            position.restore()
        loss = outputs[0] if isinstance(outputs, tuple) else outputs.loss
        return [loss, *torch.autograd.grad(loss, [self.hidden, *self.head.parameters()])]

    def _twin(self, model: Any) -> Any:
        """The model with stand-ins for body and head; the other modules are shared."""
        # Not by copy: a class that fully_shard made would build the model anew.
        twin: Any = object.__new__(type(model))
        twin.__dict__.update({key: value for key, value in vars(model).items() if key != "forward"})
        # from_pretrained leaves evaluation mode; what is asked is whether training is exact.
        twin.__dict__["training"] = True
        stand_ins = {_body(model): _Body(self.hidden, _body(model)), model.get_output_embeddings(): self.head}
        twin._modules = {name: stand_ins.get(child, child) for name, child in model._modules.items()}
        if not all(each in twin._modules.values() for each in stand_ins.values()):
            raise NotExactError(
                f"{type(model).__name__} does not hold its body and its lm_head as own modules"
            )
        return twin

    def error(self, actual: list[Tensor], expected: list[Tensor]) -> float:
        pairs = zip(actual, expected, strict=True)
        # Python's max() would lose a NaN.
        return torch.stack([(a - e).abs().max() / e.abs().max() for a, e in pairs]).max().item()


def _body(model: Any) -> nn.Module:
    # Multimodal classes before transformers 5 name no base_model_prefix.
    body = model.base_model
    return getattr(model, "model", body) if body is model else body


class _Body(nn.Module):
    """Stands in for the body: returns the given hidden states, whatever it is called with."""

    def __init__(self, hidden: Tensor, own: nn.Module) -> None:
        super().__init__()
        self.hidden = hidden
        # Not registered as a module: only its attributes are looked up.
        self.__dict__["own"] = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["own"], name)

    def forward(self, *args: Any, **kwargs: Any) -> "_Outputs":
        return _Outputs((self.hidden,))


class _Outputs(tuple[Tensor, ...]):
    """The outputs of a body that has nothing to give but its last hidden states."""

    def __getattr__(self, name: str) -> Tensor | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[0] if name == "last_hidden_state" else None
