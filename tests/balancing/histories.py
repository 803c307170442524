"""What happens in the steps of a run, at random: tasks that come late, stay away, have a loss of 0."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from cotbal.balancing import Weighting

NAMES = ("VQA", "caption", "grounding", "chat")


@dataclass(frozen=True)
class History:
    """The sums of each step, (steps, N): what a trainer gives to `update`."""

    loss_sums: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def tasks(self) -> tuple[str, ...]:
        return NAMES[: self.counts.shape[1]]

    def steps(self) -> list[list[float | None]]:
        """Each task's mean loss by step, None where it was absent."""
        return [
            [
                loss / count if count else None
                for loss, count in zip(loss_row.tolist(), count_row.tolist(), strict=True)
            ]
            for loss_row, count_row in zip(self.loss_sums, self.counts, strict=True)
        ]

    def play(self, weighting: Weighting, start: int = 0, stop: int | None = None) -> list[Tensor]:
        """The weights of the steps start..stop-1, by the protocol: `weights` before, `update` after each."""
        weights = []
        for loss_sum, count in list(zip(self.loss_sums, self.counts, strict=True))[start:stop]:
            weights.append(weighting.weights(count))
            weighting.update(loss_sum, count)
        return weights


@st.composite
def histories(draw: st.DrawFn, max_steps: int = 14) -> History:
    n_steps, n_tasks = draw(st.integers(1, max_steps)), draw(st.integers(1, len(NAMES)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    counts = torch.randint(1, 40, (n_steps, n_tasks), generator=generator)
    counts[torch.rand(counts.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.8]))] = 0
    # One task begins late, perhaps after every window.
    counts[: draw(st.integers(0, n_steps)), draw(st.integers(0, n_tasks - 1))] = 0
    losses = torch.empty(n_steps, n_tasks).uniform_(0.01, 6.0, generator=generator)
    losses[torch.rand(losses.shape, generator=generator) < draw(st.sampled_from([0.0, 0.1]))] = 0.0
    return History(losses * counts, counts)
