"""TLA under the weighted mean of Eq. 2 is the mean over the present tasks of each task's own mean loss."""

import pytest
import torch

import cotbal
from cotbal.balancing import TLA
from cotbal.normalizer import task_token_counts


def batch(present: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(present), 9, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (len(present), 9), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.4] = -100
    # A first label that counts would show a forgotten shift.
    labels[:, 0] = 3
    return logits, labels, torch.tensor(present)


@pytest.mark.parametrize("present", [[0, 0, 0, 2], [1, 1], [0, 1, 2, 3, 3, 3, 3]])
def test_weighted_mean_is_the_mean_of_the_present_tasks_means(present: list[int]) -> None:
    logits, labels, task_ids = batch(present)
    weights = (
        TLA().bind("abcd"[i] for i in range(4)).weights(task_token_counts(labels, task_ids, 4, shift=True))
    )
    loss = cotbal.gtw_cross_entropy(logits, labels, task_ids, weights, shift=True)
    rows = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
    )
    rows, valid = rows.view(len(present), 8), labels[:, 1:] != -100
    means = [rows[task_ids == t][valid[task_ids == t]].mean() for t in sorted(set(present))]
    # The weights are fp32: their rounding is all that may differ.
    torch.testing.assert_close(loss, torch.stack(means).mean(), rtol=1e-6, atol=0)


def test_absent_tasks_get_weight_zero_and_an_empty_step_all_zero() -> None:
    rule = TLA().bind(["a", "b", "c"])
    assert rule.weights(torch.tensor([30, 10, 0])).tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    assert rule.weights(torch.tensor([0, 0, 0])).tolist() == [0.0, 0.0, 0.0]
    # Sums of token weights are counts as well.
    weights = rule.weights(torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64))
    assert weights.tolist() == pytest.approx([2.0, 2 / 3, 0.0])
