"""Random loss weighting (RLW): new random weights in every step."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cotbal.balancing.base import Weighting, is_whole


class RLW(Weighting):
    """N softmax(z) with z ~ N(0, 1) for each task, drawn anew in every step.

    The numbers come from a generator of its own on the CPU: the same on every rank and every kind of device,
    whatever else draws there. Its state is saved, so a resumed run goes on in the same sequence.

    Example:
        >>> RLW(seed=0).bind(["VQA", "caption"]).weights(torch.tensor([30, 10]))
        tensor([1.7246, 0.2754])

    Args:
        seed: of the generator.
        fixed: as for every `Weighting`.

    Raises:
        ValueError: a seed that is no whole number of at most 63 bits.
    """

    def __init__(self, seed: int = 0, *, fixed: Mapping[str, float] | None = None) -> None:
        if not (is_whole(seed) and -(2**63) <= seed < 2**63):
            raise ValueError(f"seed: expected a whole number of at most 63 bits, got {seed!r}")
        self._seed = int(seed)
        super().__init__(fixed=fixed, seed=self._seed)

    def bind(self, tasks: Iterable[str], device: torch.device | str = "cpu") -> "RLW":
        """As `Weighting.bind`; the sequence starts again."""
        super().bind(tasks, device)
        self._generator = torch.Generator("cpu").manual_seed(self._seed)
        self._before = self._generator.get_state()
        self._drawn_for = -1
        return self

    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,); every call draws."""
        if self._drawn_for != self.step:
            self._before, self._drawn_for = self._generator.get_state(), self.step
        # Where the generator is, whatever torch.set_default_device says.
        z = torch.randn(len(counts), generator=self._generator, dtype=torch.float64, device="cpu")
        return (len(counts) * z.softmax(0)).to(self.device, torch.float32, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """As `Weighting.state_dict`, with the generator's state, within a step that before its draws."""
        state = self._before if self._drawn_for == self.step else self._generator.get_state()
        return super().state_dict() | {"generator": state.tolist()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """As `Weighting.load_state_dict`."""
        super().load_state_dict(saved)
        self._generator.set_state(torch.tensor(saved["generator"], dtype=torch.uint8, device="cpu"))
        self._drawn_for = -1
