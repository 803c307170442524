"""The kernels over rows alone: weights, what is out of range, and sums per task over several blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton import row_sums, task_stats
from csrc_triton import rows as rows_module
from csrc_triton.rows import Rows
from csrc_triton.task_stats import RowSums
from tests.csrc_triton.compiled import TARGETS, compiled, for_targets

ROWS, VOCABULARY, TASKS, IGNORE = 23, 11, 3, -100
# A row that is valid, and one that is not.
VALID, IGNORED = 5, 6
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a block has, and a last block that is not full."""
    monkeypatch.setattr(row_sums, "_BLOCK", 8)
    monkeypatch.setattr(row_sums, "_SUM_BLOCK", 8)


@pytest.fixture
def rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[[0, IGNORED, ROWS - 1]] = IGNORE
    token_weights = torch.rand(ROWS, generator=generator)
    token_weights[3] = 0
    return Rows(
        labels=labels,
        task_ids=torch.randint(TASKS, (ROWS,), generator=generator),
        task_weights=torch.tensor([0.5, 0.0, 2.0]),
        token_weights=token_weights,
        class_weights=torch.rand(VOCABULARY, generator=generator),
        ignore_index=IGNORE,
        n_cols=VOCABULARY,
        dtype=torch.float32,
    )


def with_value(rows: Rows, name: str, row: int, value: float) -> Rows:
    """`rows` with a value in a row of `name`, in the weight of its task or of its label's class."""
    place: Any = row
    if name == "task_weights":
        assert rows.task_ids is not None
        place = rows.task_ids[row]
    elif name == "class_weights":
        place = rows.labels[row]
    changed = getattr(rows, name).clone()
    changed[place] = value
    return replace(rows, **{name: changed})


def test_weights_are_the_products_of_their_factors(rows: Rows) -> None:
    weights, mass, is_right = row_sums.weigh_rows(rows, torch.tensor(3.0))
    assert is_right
    assert torch.equal(weights, rows.weights)
    assert torch.equal(mass, rows.times_class_weight(rows.weights))
    assert (weights == 0).sum() > 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("labels", value) for value in (-1, VOCABULARY)),
        *(("task_ids", value) for value in (-1, TASKS)),
        *(
            (name, value)
            for name in ("task_weights", "token_weights", "class_weights")
            for value in (-1.0, NAN, INF)
        ),
    ],
)
def test_a_value_out_of_range_is_seen_at_a_valid_row(rows: Rows, name: str, value: float) -> None:
    assert not row_sums.weigh_rows(with_value(rows, name, VALID, value), None)[2]
    if name in ("task_ids", "token_weights"):
        assert row_sums.weigh_rows(with_value(rows, name, IGNORED, value), None)[2]


@pytest.mark.parametrize("value", [1e-30, 1e30])
def test_a_product_that_float32_cannot_hold_is_seen_at_a_valid_row(rows: Rows, value: float) -> None:
    token_weights = torch.ones(ROWS)
    token_weights[[VALID, IGNORED]] = value
    assert rows.task_ids is not None
    changed = replace(rows, token_weights=token_weights)
    for task_weight, is_right in ((value, False), (1.0, True), (0.0, True)):
        task_weights = torch.ones(TASKS).index_fill(0, rows.task_ids[VALID], task_weight)
        assert row_sums.weigh_rows(replace(changed, task_weights=task_weights), None)[2] == is_right


def test_a_product_with_a_class_weight_that_float32_makes_0_is_seen(rows: Rows) -> None:
    changed = replace(rows, token_weights=None, task_weights=torch.full((TASKS,), 1e-30))
    for class_weight, is_right in ((1e-30, False), (1e-10, True), (0.0, True)):
        assert (
            row_sums.weigh_rows(with_value(changed, "class_weights", VALID, class_weight), None)[2]
            == is_right
        )


@pytest.mark.parametrize("name", ["task_weights", "class_weights"])
def test_a_weight_whose_sum_float32_cannot_divide_by_is_seen(rows: Rows, name: str) -> None:
    class_weights = torch.ones(VOCABULARY) if name == "class_weights" else None
    plain = replace(rows, task_weights=torch.ones(TASKS), token_weights=None, class_weights=class_weights)
    most = rows_module.most_of_a_row(ROWS, torch.float32)
    assert row_sums.weigh_rows(with_value(plain, name, VALID, most), None)[2]
    assert not row_sums.weigh_rows(with_value(plain, name, VALID, 1.001 * most), None)[2]


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF])
def test_a_denominator_out_of_range_is_seen(rows: Rows, value: float) -> None:
    assert not row_sums.weigh_rows(rows, torch.tensor(value))[2]
    nothing = replace(rows, token_weights=torch.zeros(ROWS))
    assert bool(row_sums.weigh_rows(nothing, torch.tensor(value))[2]) == (value == 0)


def sums_of(rows: Rows, divisor: Tensor | None, *, reads_unweighted: bool) -> tuple[RowSums, RowSums]:
    """What the kernel and what torch make of the same losses; those of rows that are not read are NaN."""
    generator = torch.Generator().manual_seed(1)
    read = rows.valid if reads_unweighted else rows.weights != 0
    losses = torch.rand(ROWS, generator=generator).masked_fill(~read, NAN)
    correct = torch.rand(ROWS, generator=generator) < 0.5
    weights, _, _ = row_sums.weigh_rows(rows, None)
    ours = row_sums.sum_rows(losses, correct, weights, rows, divisor, reads_unweighted=reads_unweighted)
    return ours, task_stats.sum_rows(losses.nan_to_num(), correct, read, rows, divisor)


@pytest.mark.parametrize("divisor", [None, 3.0, 0.0])
@pytest.mark.parametrize("reads_unweighted", [False, True])
def test_sums_are_those_of_torch(rows: Rows, divisor: float | None, reads_unweighted: bool) -> None:
    given = None if divisor is None else torch.tensor(divisor)
    ours, theirs = sums_of(rows, given, reads_unweighted=reads_unweighted)
    assert ours.token_count.tolist() == theirs.token_count.tolist()
    assert ours.correct_count.tolist() == theirs.correct_count.tolist()
    assert (ours.token_count[1] > 0) == reads_unweighted
    for name in ("loss", "loss_sum", "mass_sum"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=0)
    assert (ours.loss == 0) == (divisor == 0)


@TARGETS
def test_every_kernel_over_rows_compiles(tmp_path: Path, targets: tuple[str, ...]) -> None:
    lines = compiled("row_sums_compile", tmp_path, *for_targets(targets))
    assert {line["kernel"] for line in lines} == {"weigh_rows", "sum_rows", "scale_rows"}
    assert {line["target"] for line in lines} == set(targets)
    for line in lines:
        assert line.get("spill_bytes", 0) == 0, line
        is_scale = line["kernel"] == "scale_rows" and "spill_bytes" in line
        assert not is_scale or (line["wide_loads"] and line["wide_stores"]), line
