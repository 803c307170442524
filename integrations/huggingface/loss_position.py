"""Our loss in a model's loss position: in `loss_function`, or inside the call of `lm_head`."""

import gc
import inspect
import weakref
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cotbal.integrations.huggingface.heads import changing_hook
from cotbal.integrations.huggingface.no_logits import without_logits
from cotbal.integrations.huggingface.packing import IGNORE_INDEX
from cotbal.integrations.huggingface.routers import router_coefficient, with_routers
from cotbal.step_loss import StepLoss
from csrc_triton.checks import require


class NoLossFunctionError(ValueError):
    """A class whose loss does not come from its `loss_function`: no level can reach it."""


@dataclass(frozen=True)
class LogitShape:
    """What a class does to the head's product x: softcap tanh(scale x / softcap), or scale x without one."""

    softcap: float | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        parts = [] if self.softcap is None else [f"softcap {self.softcap:g}"]
        parts += [] if self.scale == 1.0 else [f"scale {self.scale:g}"]
        return " and ".join(parts)

    def loss(
        self, step_loss: StepLoss, hidden: Tensor, head: nn.Linear, labels: Tensor, shift: bool
    ) -> Tensor:
        """The step's loss of hidden states (..., D) and the whole head, 0-d."""
        bias: Tensor | None = head.bias
        if self.scale != 1.0:
            hidden, bias = hidden * self.scale, None if bias is None else bias * self.scale
        return step_loss.on_hidden(hidden, head.weight, labels, bias=bias, shift=shift, softcap=self.softcap)


@dataclass
class _Pass:
    """One forward pass of a training micro-batch: its labels, then its loss."""

    labels: Tensor
    shift: bool
    labels_version: int
    in_head: Tensor | None = None
    loss: Tensor | None = None
    returned: Tensor | None = None
    version: int = 0


class _OurLoss:
    """What a model has for its `loss_function` while ours is in it."""

    def __init__(self, position: "LossPosition") -> None:
        self.position = position

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.position._loss_function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_OurLoss":
        # The copy's forward feeds the same position.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.position.is_held():
            raise ValueError(
                f"model: expected {self.position.name} without the loss of cotbal to pickle it, as "
                "torch.save(model) does, got it with the loss; call trainer.stop_balancing() or unpatch() "
                "first, or save its state_dict()"
            )
        # Left in a deep copy, or by a trainer that is gone. Python pickles a forward as that of the class.
        return copy, (self.position._own_loss,)


class LossPosition:
    """Puts a `StepLoss` into the loss position of one transformers model.

    Without `heads` the loss is computed from the logits that the model hands to its `loss_function`. With
    them each head's own `forward` computes it, so that hooks which gather a sharded head fire as always; it
    returns logits of width 0, with which the model's code goes on, and `loss_function` returns that loss.
    While no micro-batch runs (evaluation, generation) everything is the model's own.

    Args:
        model: what `inner_model` returns; not yet wrapped by DDP, FSDP or an engine.
        step_loss: the loss of the step.
        heads: what `plain_heads` returns, for the linear level.
        shape: what the class does to the head's product before its loss.
    """

    def __init__(
        self,
        model: Any,
        step_loss: StepLoss,
        heads: Iterable[nn.Linear] = (),
        shape: LogitShape | None = None,
    ) -> None:
        self.model = model
        self.name = type(model).__name__
        self.step_loss = step_loss
        self.heads = tuple(heads)
        self.shape = shape or LogitShape()
        self._router = router_coefficient(model)
        self.installed = False
        self.holder: weakref.ref[Any] | None = None
        self._pass: _Pass | None = None
        # By our function: the module, and what stood in the place of its class's forward.
        self._replaced: dict[Any, tuple[nn.Module, Any]] = {}

    def install(self) -> None:
        """Replace `forward` and `loss_function` of the model, and `forward` of the heads."""
        self.installed = True
        self._replace(self.model, self._wrap_forward())
        for head in self.heads:
            self._replace(head, self._wrap_head())
        self._stated_loss = self.model.__dict__.get("_loss_function")
        self._own_loss = self.model.loss_function
        self.model.loss_function = _OurLoss(self)

    def restore(self) -> None:
        """Give the model its own code back; what wraps ours by then finds it passing everything through."""
        self.installed = False
        self.take_out((self.model, *self.heads))

    def take_out(self, modules: Iterable[nn.Module]) -> None:
        """Give these modules their own code back: the model's own, or those of a deep copy of it."""
        for module in modules:
            function = getattr(module.__dict__.get("forward"), "__func__", None)
            if function in self._replaced:
                first, own = self._replaced[function]
                if getattr(own, "__self__", None) is first:
                    own = MethodType(own.__func__, module)
                _put_back(module, "forward", own)
            loss = module.__dict__.get("_loss_function")
            if isinstance(loss, _OurLoss) and loss.position is self:
                _put_back(module, "_loss_function", self._stated_loss)

    def is_held(self) -> bool:
        """Whether it is in place, and who put it there is not gone."""
        if self.installed and self.holder is not None and self.holder() is not None:
            # A trainer and its callbacks hold each other.
            gc.collect()
        return self.installed and (self.holder is None or self.holder() is not None)

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._replaced[forward] = module, module.__dict__.get("forward")
        # A bound method, so that a deep copy of the module runs with the copy's parameters.
        module.forward = MethodType(forward, module)

    def _wrap_forward(self) -> Callable[..., Any]:
        current = self.model.forward
        signature = inspect.signature(current)
        own = getattr(current, "__func__", None)

        @named_like(current)
        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            # Not a bound method, which a compiler would break its graph at.
            run = current if own is None else partial(own, model)
            if not (self.installed and self.step_loss.is_active):
                return run(*args, **kwargs)
            given = signature.bind_partial(*args, **kwargs).arguments if args else kwargs
            self._pass = self._begin(given.get("labels"), kwargs.get("shift_labels"))
            try:
                outputs = run(*args, **kwargs)
                self._settle(self._pass, outputs)
                # A compiled model returns tensors alone.
                is_whole = torch.compiler.is_compiling() or self._pass.in_head is None
                return outputs if is_whole else without_logits(outputs)
            except (IndexError, RuntimeError, TypeError) as error:
                if self._pass.in_head is None or self._pass.returned is not None:
                    raise
                raise ValueError(
                    f"{self.name} does something to the logits of lm_head before its loss ({error}), and at "
                    "the linear level there are none (an adapter that was put on lm_head since?); use "
                    'level="logits"'
                ) from error
            finally:
                self._pass = None

        return forward

    def _wrap_head(self) -> Callable[[nn.Linear, Tensor], Tensor]:
        def forward(head: nn.Linear, hidden: Tensor) -> Tensor:
            current = self._pass
            if current is None:
                return nn.Linear.forward(head, hidden)
            if current.in_head is not None:
                raise ValueError(f'{self.name} calls lm_head more than once in a pass; use level="logits"')
            if not torch.compiler.is_compiling() and (hook := changing_hook(head)) is not None:
                raise ValueError(
                    f"lm_head got the forward hook {hook} since the loss was put into it, which may change "
                    'its logits; use level="logits"'
                )
            _check_rows("lm_head's rows", hidden, current.labels)
            labels = current.labels.to(hidden.device)
            current.in_head = self.shape.loss(self.step_loss, hidden, head, labels, current.shift)
            # Joined to the loss, so that hooks on the head's output fire before its gradients are made; FSDP2
            # wants no view there.
            return current.in_head.to(hidden.dtype).expand(*hidden.shape[:-1], 1)[..., :0].clone()

        return forward

    def _begin(self, labels: Tensor | None, shift_labels: Tensor | None) -> _Pass:
        chosen = labels if shift_labels is None else shift_labels
        if chosen is None or labels is None:
            raise ValueError(
                f"labels: expected them in every training batch of {self.name}, got none; a loss computed "
                "outside the model (label_smoothing_factor, compute_loss_func) bypasses the task weights"
            )
        return _Pass(chosen, shift=shift_labels is None, labels_version=_version(chosen))

    def _loss_function(self, logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        current = self._pass
        if current is None:
            return self._own_loss(logits, labels, *args, **kwargs)
        if current.returned is not None:
            raise ValueError(f"{self.name} computes more than one loss in a pass; it cannot be weighted")
        shifted = kwargs.get("shift_labels")
        self._check_asked(current, shifted, kwargs.get("ignore_index", IGNORE_INDEX))
        labels = labels if shifted is None else shifted
        loss = (
            self._from_head(current, logits, labels)
            if self.heads
            else self._from_logits(current, logits, labels)
        )
        # A class adds a router's loss to it in place.
        returned = loss if self._router is None else loss.clone()
        current.loss, current.returned, current.version = loss, returned, _version(returned)
        return returned

    def _check_asked(self, current: _Pass, shifted: Tensor | None, ignore_index: int) -> None:
        """The denominator counted the labels as they came, shifted by one unless the batch did it."""
        if _version(current.labels) != current.labels_version:
            raise ValueError(
                f"{self.name} changes the labels of the batch in place, which the denominator has counted; "
                "change them in the collator"
            )
        if shifted is not None and current.shift:
            raise ValueError(
                f"{self.name} hands shift_labels to its loss_function, which the batch does not have; where "
                "its labels are aligned with its logits, put them into the batch as shift_labels"
            )
        if ignore_index != IGNORE_INDEX:
            raise ValueError(
                f"ignore_index: expected {IGNORE_INDEX} in the loss_function of {self.name}, got "
                f"{ignore_index}; the denominator counts every other label. Put {IGNORE_INDEX} there instead"
            )

    def _from_logits(self, current: _Pass, logits: Tensor, labels: Tensor) -> Tensor:
        if labels is not current.labels:
            # A class may copy them, not change them: the denominator counted those of the batch.
            expected = f"{self.name}: expected the labels of the batch in its loss_function"
            if labels.shape != current.labels.shape:
                shapes = f"{tuple(current.labels.shape)}, got {tuple(labels.shape)}"
                raise ValueError(f"{expected}, of the shape {shapes}; the denominator counts the batch's")
            differ = labels != current.labels.to(labels.device)
            require(~differ.any(), f"{expected}; positions that it changes", differ.sum())
        _check_rows(f"the logits of {self.name}", logits, labels)
        return self.step_loss.on_logits(logits, labels.to(logits.device), shift=current.shift)

    def _from_head(self, current: _Pass, logits: Tensor, labels: Tensor) -> Tensor:
        if current.in_head is None:
            raise ValueError(
                f"{self.name} did not call the lm_head that the loss was put into (was it replaced since?); "
                'put the loss in again, or use level="logits"'
            )
        if labels is not current.labels:
            raise ValueError(f'{self.name} changes the labels on the way to its loss; use level="logits"')
        # The sum of no logits is 0; its graph is what the class made of the head's output.
        return current.in_head + logits.sum().to(current.in_head.dtype)

    def _settle(self, current: _Pass, outputs: Any) -> None:
        """Only what came from our loss may be trained on, and the step's mean of a router's loss."""
        loss = outputs[0] if isinstance(outputs, tuple) else getattr(outputs, "loss", None)
        if current.returned is None or current.loss is None:
            raise NoLossFunctionError(
                f"{self.name} computed no loss through its loss_function, so task weights would have no "
                "effect (a class that forms its loss by itself, a patched forward such as Liger's, TRL's "
                "fused head, or an older transformers); remove the patch, upgrade, or call "
                "cotbal.gtw_cross_entropy on its logits"
            )
        auxiliary = getattr(outputs, "aux_loss", None)
        # In compiled code a tensor has no version.
        is_changed = loss is not current.returned or _version(loss) != current.version
        if is_changed or isinstance(auxiliary, Tensor):
            share = self.step_loss.auxiliary_share
            outputs.loss = with_routers(self.name, current.loss, loss, auxiliary, self._router, share)


def named_like(current: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a function of (model, ...) that becomes a method the name and the arguments of `current`."""
    own = getattr(current, "__func__", None)
    if own is not None:
        return wraps(own)

    def decorate(forward: Callable[..., Any]) -> Callable[..., Any]:
        # A method's first argument is not shown, and a plain function has none to spare.
        first = inspect.Parameter("_model", inspect.Parameter.POSITIONAL_ONLY)
        known = inspect.signature(current)
        named = wraps(current)(forward)
        named.__signature__ = known.replace(parameters=[first, *known.parameters.values()])  # type: ignore[attr-defined]
        return named

    return decorate


def check_installed(model: Any) -> None:
    """Checks that no loss of ours is in the model; one whose trainer is gone is taken out, and a copy's.

    Raises:
        ValueError: there is one.
    """
    # Not of its forward, which accelerate wraps under bf16.
    ours = model.loss_function
    if not isinstance(ours, _OurLoss):
        return
    before = ours.position
    # A patched model has a second forward around it, which its copies keep until unpatch().
    if before.is_held() and (before.model is model or before.holder is None):
        raise ValueError(
            f"model: {type(model).__name__} already has a loss of cotbal; call restore() or unpatch() of "
            "that one first: of a CoTBalTrainer trainer.stop_balancing(), of a patch cotbal.unpatch()"
        )
    before.take_out(model.modules())


def _check_rows(name: str, rows: Tensor, labels: Tensor) -> None:
    if rows.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels: expected the shape of {name}, {tuple(rows.shape[:-1])}, got {tuple(labels.shape)}; "
            "leave logits_to_keep out of training batches"
        )


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    # A compiler would take it for data, and break its graph there.
    return 0 if torch.compiler.is_compiling() else tensor._version


def _put_back(target: Any, name: str, own: Any) -> None:
    if own is None:
        target.__dict__.pop(name, None)
    else:
        target.__dict__[name] = own
