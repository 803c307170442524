"""Any scalarizer of torchjd as a weighting: uncertainty weighting, FAMO, smooth Tchebycheff, IMTL-L, ..."""

import copy
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cotbal._draws import own_draws
from cotbal._float64 import float64_device
from cotbal.balancing._json import from_json, to_json
from cotbal.balancing.base import LEAST, Weighting

_MODULE_ATTRIBUTES = set(vars(nn.Module()))


class TorchJDWeighting(Weighting):
    """The weights u = d scalarizer(l) / d l, l (N,) fp32 the tasks' last losses; all 1 in the first step.

    They are scaled to average 1 and used under the weighted mean of Eq. 2 (GTW), which drops the common
    scale of u in any case: only the ratios of u reach the model. None goes below 2^-64: under a weight of 0
    the task's loss would be measured no more. The scalarizer is called once per optimizer step, on detached
    losses; its parameters then take one step in an optimizer of their own. Where it has an `update` (FAMO),
    that gets the next step's losses; where it has a `step` (torchjd's DWA), that is called every
    `epoch_steps` steps. What it draws depends on `seed` and the step alone, so it is the same on every rank
    and after a resume.

    Needs the extra `torchjd`, for the scalarizer. GeometricMean reads a number from the device in
    each call; no other scalarizer waits.

    Example:
        >>> from torchjd.scalarization import STCH
        >>> rule = TorchJDWeighting(STCH(mu=1.0)).bind(["VQA", "caption"])
        >>> rule.update(torch.tensor([8.0, 9.0]), torch.tensor([4, 3]))
        >>> rule.weights(torch.tensor([4, 3]))
        tensor([0.7551, 1.2449])

    Args:
        scalarizer: a `torchjd.scalarization.Scalarizer` for N values, or any module from losses (N,) to one
            number; N does not count fixed tasks. Each `bind` starts with a copy.
        optimizer: makes the optimizer from the scalarizer's parameters; None: Adam at a rate of 0.025.
        epoch_steps: what an epoch is for a scalarizer with a `step`, in optimizer steps; else None.
        seed: of what the scalarizer draws.
        fixed: as for every `Weighting`.

    Raises:
        TypeError: the scalarizer is not a module.
        ValueError: `epoch_steps` is missing where it is needed, or given where nothing uses it; in `update`,
            u is not finite, negative or all 0 (on CUDA an assertion of the device, without waiting for it).
    """

    least = LEAST

    def __init__(
        self,
        scalarizer: nn.Module,
        *,
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        epoch_steps: int | None = None,
        seed: int = 0,
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(scalarizer, nn.Module):
            raise TypeError(f"scalarizer: expected an object of torchjd.scalarization, got {scalarizer!r}")
        name = type(scalarizer).__name__
        if hasattr(scalarizer, "step") != (epoch_steps is not None and epoch_steps > 0):
            raise ValueError(
                f"epoch_steps: expected a number of steps >= 1 for a scalarizer with a step() to call at an "
                f"epoch's end, and None for others, got {epoch_steps!r} for {name}"
            )
        super().__init__(fixed=fixed, seed=seed, epoch_steps=epoch_steps or 0)
        self._given, self._make_optimizer = scalarizer, optimizer or (lambda each: Adam(each, lr=0.025))
        self._epoch_steps, self._seed = epoch_steps, seed

    def bind(self, tasks: Iterable[str], device: torch.device | str = "cpu") -> "TorchJDWeighting":
        """As `Weighting.bind`, with a fresh copy of the scalarizer on the device."""
        # Its methods and attributes are its own affair: torchjd has no common type for them.
        home = float64_device(device)
        self.scalarizer: Any = copy.deepcopy(self._given).to(home)
        for name, value in self._attributes().items():
            # A tensor that is no buffer stays behind when a module moves.
            if isinstance(value, Tensor):
                setattr(self.scalarizer, name, value.to(home))
            elif not name.startswith("_") and isinstance(value, bool | int | float):
                self.options[name] = value
        self._parameters = [each for each in self.scalarizer.parameters() if each.requires_grad]
        self._optimizer = self._make_optimizer(self._parameters) if self._parameters else None
        super().bind(tasks, device)
        return self

    def initial_state(self, n_tasks: int) -> dict[str, Tensor]:
        """The weights (N,) of the next step."""
        return {"weights": torch.ones(n_tasks, dtype=torch.float32)}

    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,)."""
        return self.state["weights"]

    def observe(self, loss: Tensor, present: Tensor) -> None:
        """Takes u at these losses, and one step of the scalarizer's parameters."""
        values = loss.to(torch.float32)
        seed = random.Random(f"{self._seed} {self.step}").getrandbits(31)
        with torch.enable_grad(), own_draws(seed, [self.device]):
            if hasattr(self.scalarizer, "update") and self.step > 0:
                self.scalarizer.update(values)
            leaf = values.detach().requires_grad_()
            total = self.scalarizer(leaf)
            u, *gradients = torch.autograd.grad(total, [leaf, *self._parameters], allow_unused=True)
        self.state["weights"] = self._checked(torch.zeros_like(values) if u is None else u)
        self._train(gradients)
        if self._epoch_steps and (self.step + 1) % self._epoch_steps == 0:
            self.scalarizer.step()

    def state_dict(self) -> dict[str, Any]:
        """As `Weighting.state_dict`, with all that the scalarizer and its optimizer hold.

        Raises:
            TypeError: the scalarizer holds something that JSON cannot.
        """
        held = {
            "parameters": self.scalarizer.state_dict(),
            "attributes": {name: _content(value) for name, value in self._attributes().items()},
            "optimizer": _content(self._optimizer),
        }
        return super().state_dict() | {"scalarizer": to_json(held, self._rule)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """As `Weighting.load_state_dict`."""
        super().load_state_dict(saved)
        held = from_json(saved["scalarizer"], self.device)
        if hasattr(self.scalarizer, "update"):
            # FAMO makes its optimizer in the first update: the numbers do not matter, all are replaced below.
            self.scalarizer(torch.ones_like(self.state["weights"]))
            self.scalarizer.update(torch.ones_like(self.state["weights"]))
        self.scalarizer.load_state_dict(held["parameters"])
        _restore(self, "_optimizer", held["optimizer"])
        for name, value in held["attributes"].items():
            _restore(self.scalarizer, name, value)

    @property
    def _rule(self) -> str:
        return f"{type(self).__name__}({type(self._given).__name__})"

    def _attributes(self) -> dict[str, Any]:
        """What the scalarizer holds besides parameters, buffers and modules."""
        return {
            name: value for name, value in vars(self.scalarizer).items() if name not in _MODULE_ATTRIBUTES
        }

    def _checked(self, u: Tensor) -> Tensor:
        """`u` (N,) scaled to average 1."""
        valid = u.isfinite().all() & (u >= 0).all() & (u > 0).any()
        expected = f"{self._rule}: expected finite derivatives >= 0 by the losses, not all 0"
        if u.device.type != "cpu":
            torch._assert_async(valid, expected)
        elif not valid:
            raise ValueError(
                f"{expected}, got {u.tolist()} in step {self.step}; this scalarizer cannot weigh here"
            )
        return (u / u.to(torch.float64).mean()).to(torch.float32)

    def _train(self, gradients: Iterable[Tensor | None]) -> None:
        if self._optimizer is None:
            return
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad()


def _content(value: Any) -> Any:
    return value.state_dict() if isinstance(value, Optimizer) else value


def _restore(owner: object, name: str, value: Any) -> None:
    """Sets an attribute to what was saved of it; an optimizer stays and takes its state."""
    current = getattr(owner, name)
    if isinstance(current, Optimizer) and value is not None:
        # JSON made the parameters' numbers strings.
        state = {int(index): each for index, each in value["state"].items()}
        current.load_state_dict(value | {"state": state})
    else:
        setattr(owner, name, value)
