"""The counts of a step, its one collective, and the factor that undoes what a stack does afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cotbal import TaskStats
from cotbal.normalizer import StepNormalizer, loss_factor, task_token_counts
from tests.examples import check_examples
from tests.ranks import Ranks

LABELS = torch.tensor([[5, 2, -100], [7, -100, 4], [1, 1, 1]])
IDS = torch.tensor([0, 2, 0])


def test_counts_leave_out_ignored_labels_and_the_first_when_shifted() -> None:
    assert task_token_counts(LABELS, IDS, 4).tolist() == [5, 0, 2, 0]
    assert task_token_counts(LABELS, IDS, 4, shift=True).tolist() == [3, 0, 1, 0]
    per_token = torch.tensor([[0, 3, 0], [2, 2, 1], [0, 0, 0]])
    assert task_token_counts(LABELS, per_token, 4, shift=True).tolist() == [2, 1, 0, 1]
    assert task_token_counts(LABELS, IDS, 4).dtype == torch.int64


class Largest(TorchDispatchMode):
    """The elements of the largest tensor made within."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numel = max(self.numel, made.numel())
        return made


@pytest.mark.parametrize("shift", [False, True])
def test_many_tasks_are_counted_sample_by_sample(shift: bool) -> None:
    """As many as there are in mixtures of fifty data sets: nothing is made that is N times the batch."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(100, (6, 40), generator=draw)
    labels[labels < 40], labels[2] = -100, -100
    ids = torch.randint(50, (6,), generator=draw)
    expected = task_token_counts(labels, ids[:, None].expand_as(labels), 50, shift=shift)
    with Largest() as largest:
        assert torch.equal(task_token_counts(labels, ids, 50, shift=shift), expected)
    assert largest.numel <= max(labels.numel(), 6 * 50)
    assert expected.sum() == (labels[:, int(shift) :] != -100).sum()


def test_another_label_is_ignored_when_told() -> None:
    assert task_token_counts(LABELS, IDS, 3, ignore_index=1).tolist() == [3, 0, 3]


def test_token_weights_are_summed_in_float64() -> None:
    weights = torch.tensor([[9.0, 0.5, 9.0], [9.0, 9.0, 0.25], [9.0, 1.0, 2.0]])
    counts = task_token_counts(LABELS, IDS, 3, token_weights=weights, shift=True)
    assert counts.dtype == torch.float64
    assert counts.tolist() == [3.5, 0.0, 0.25]
    # 2^24 + 1 is lost in float32.
    many = torch.ones(1, 3)
    many[0, 0] = 2.0**24
    assert task_token_counts(
        torch.ones(1, 3, dtype=torch.int64), torch.tensor([0]), 1, token_weights=many
    ) == (2**24 + 2)


def test_wrong_ids_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task_ids: expected values in 0\.\.1 at valid tokens"):
        task_token_counts(LABELS, IDS, 2)
    late = torch.zeros(20, dtype=torch.int64).index_fill(0, torch.tensor([15]), 7)
    with pytest.raises(ValueError, match=r"task_ids: .* at valid tokens, got \[7\]$"):
        task_token_counts(torch.ones(20, dtype=torch.int64), late, 2)
    with pytest.raises(ValueError, match="task_ids: expected the labels' shape"):
        task_token_counts(LABELS, torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match="token_weights: expected the labels' shape"):
        task_token_counts(LABELS, IDS, 3, token_weights=torch.ones(3))
    # 156 is -100 in 8 bits without a sign.
    with pytest.raises(TypeError, match=r"labels: expected a tensor of int64, got torch\.uint8; make it"):
        task_token_counts(torch.full((1, 3), 156, dtype=torch.uint8), IDS[:1], 1)
    # An id where nothing is trained on may be anything.
    per_token = IDS[:, None].repeat(1, 3).masked_fill(LABELS == -100, -1)
    assert task_token_counts(LABELS, per_token, 3).tolist() == [5, 0, 2]


def test_a_window_is_the_sum_of_its_micro_batches_and_starts_anew() -> None:
    normalizer = StepNormalizer(3)
    for row in range(3):
        normalizer.add(LABELS[row : row + 1], IDS[row : row + 1])
    totals = normalizer.total()
    assert totals.counts.tolist() == [3.0, 0.0, 1.0]
    assert totals.counts.dtype == torch.float64
    assert totals.previous is None
    assert normalizer.total().counts.tolist() == [0.0, 0.0, 0.0]


def test_replicas_share_the_sums_and_the_device_is_the_one_asked_for() -> None:
    count = torch.tensor([4, 2, 0])
    normalizer = StepNormalizer(3, replicas=2)
    normalizer.add(LABELS, IDS)
    totals = normalizer.total(TaskStats(count.double() / 4, count, count // 2))
    assert totals.counts.tolist() == [1.5, 0.0, 0.5]
    assert [each.tolist() for each in totals.previous or ()] == [[0.5, 0.25, 0.0], [2, 1, 0], [1, 0.5, 0]]
    normalizer.add(LABELS, IDS)
    assert normalizer.own("meta").device.type == "meta"


def test_at_least_one_task_is_counted() -> None:
    assert StepNormalizer(1).total().counts.tolist() == [0.0]
    with pytest.raises(ValueError, match="n_tasks: expected at least 1, got 0"):
        StepNormalizer(0)


@pytest.mark.parametrize("backend", ["cuda:nccl", "cpu:gloo,cuda:nccl"])
def test_under_nccl_what_is_on_the_cpu_is_summed_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """As of a rank without a micro-batch: it would fail, or wait in another collective than the others."""
    summed: list[Tensor] = []
    fakes = {"is_initialized": lambda: True, "get_world_size": lambda group: 2}
    fakes |= {
        "get_backend_config": lambda group: backend,
        "all_reduce": lambda rows, group: summed.append(rows),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(dist, name, fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with FakeTensorMode():
        assert StepNormalizer(3)._over_ranks(torch.zeros(1, 3)).device == torch.device("cuda", 1)
    assert [rows.device for rows in summed] == [torch.device("cuda", 1)]


def _rank_totals(rank: int, replicas: int) -> tuple[list[float], list[list[float]], list[list[float]]]:
    """Rank 0 has two micro-batches, rank 1 a longer one, rank 2 none."""
    normalizer = StepNormalizer(3, replicas=replicas)
    if rank == 0:
        normalizer.add(LABELS[:1], IDS[:1])
        normalizer.add(LABELS[1:2], IDS[1:2])
    if rank == 1:
        normalizer.add(torch.ones(2, 9, dtype=torch.int64), torch.tensor([1, 0]))
    count = torch.tensor([rank, 1, 0])
    previous = TaskStats(count.double() / 4, count, count // 2)
    totals = normalizer.total(previous)
    assert totals.previous is not None
    alone = normalizer.sums(previous)
    return (
        totals.counts.tolist(),
        [each.tolist() for each in totals.previous],
        [each.tolist() for each in alone],
    )


def test_one_collective_sums_counts_and_the_step_before(tmp_path: Path) -> None:
    ranks = Ranks(3, tmp_path)
    try:
        for replicas, share in ((1, 1.0), (3, 1 / 3)):
            for counts, previous, alone in ranks.run(_rank_totals, [0, 1, 2], [replicas] * 3):
                assert counts == pytest.approx([9 * share, 8 * share, 1 * share])
                expected = [[0.75, 0.75, 0.0], [3.0, 3.0, 0.0], [1.0, 0.0, 0.0]]
                for sums in (previous, alone):
                    assert sums == [pytest.approx([value * share for value in row]) for row in expected]
    finally:
        ranks.stop()


def test_the_factor_of_each_stack() -> None:
    assert loss_factor("torch", ranks=4, accumulation=2) == 4
    assert loss_factor("transformers>=4.52", ranks=8, replicas=2, accumulation=4) == 4
    assert loss_factor("transformers<4.46", ranks=4, accumulation=2) == 8
    assert loss_factor("accelerate", ranks=4, replicas=2, accumulation=3) == 6
    assert loss_factor("accelerate", ranks=4) == 4
    told = r'stack: expected one of "torch" \(a loop of your own under DDP, .* got \'DDP\''
    with pytest.raises(ValueError, match=told):
        loss_factor("DDP", ranks=1)
    with pytest.raises(ValueError, match="replicas: expected a divisor of the 4 ranks, got 3"):
        loss_factor("torch", ranks=4, replicas=3)


@pytest.mark.parametrize("documented", [StepNormalizer, loss_factor, task_token_counts])
def test_every_example_runs(documented: Any) -> None:
    check_examples(documented)


def test_ids_and_labels_that_are_no_integers_are_refused() -> None:
    """An id of 0.5 would count for no task, and the denominator be too small in silence."""
    labels, ids = torch.tensor([[5, 2, 7]]), torch.tensor([0])
    with pytest.raises(TypeError, match=r"task_ids: expected a tensor of int64, got torch\.float32"):
        task_token_counts(labels, ids + 0.5, 2)
    with pytest.raises(TypeError, match="labels: expected a tensor of int64, got list"):
        task_token_counts([[5, 2, 7]], ids, 2)  # type: ignore[arg-type]
