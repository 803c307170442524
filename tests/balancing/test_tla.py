"""TLA: the mean over the present tasks of each task's own mean loss."""

import pytest
import torch

import cotbal
from cotbal.balancing import tla_weights, token_counts


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
    weights = tla_weights(token_counts(labels, task_ids, 4, shift=True))
    loss = cotbal.gtw_cross_entropy(logits, labels, task_ids, weights, shift=True)
    rows = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
    )
    rows, valid = rows.view(len(present), 8), labels[:, 1:] != -100
    means = [rows[task_ids == t][valid[task_ids == t]].mean() for t in sorted(set(present))]
    # The weights are fp32: their rounding is all that may differ.
    torch.testing.assert_close(loss, torch.stack(means).mean(), rtol=1e-6, atol=0)


def test_counts_leave_out_ignored_labels_and_the_first_when_shifted() -> None:
    labels = torch.tensor([[5, 2, -100], [7, -100, 4], [1, 1, 1]])
    task_ids = torch.tensor([0, 2, 0])
    assert token_counts(labels, task_ids, 4).tolist() == [5, 0, 2, 0]
    assert token_counts(labels, task_ids, 4, shift=True).tolist() == [3, 0, 1, 0]
    per_token = task_ids[:, None].expand(3, 3)
    assert token_counts(labels, per_token, 4, shift=True).tolist() == [3, 0, 1, 0]


def test_absent_tasks_get_weight_zero_and_an_empty_step_all_zero() -> None:
    assert tla_weights(torch.tensor([30, 10, 0])).tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    assert tla_weights(torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_wrong_ids_are_refused() -> None:
    labels = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"task_ids must lie in 0\.\.1, got 2"):
        token_counts(labels, torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="task_ids must have the labels' shape"):
        token_counts(labels, torch.tensor([0, 1, 1]), 2)
