"""What the values of labels, ids and weights must be: an error on a CPU, a queued assertion on a GPU.

Shapes and dtypes are checked where the tensors come in; these values are known only where the tensors are.
"""

import torch
from torch import Tensor

from csrc_triton.rows import Rows, most_of_a_row


def check_rows(rows: Rows, denominator: Tensor | None) -> None:
    """Checks labels in 0..V-1 and task ids in 0..N-1 at valid rows, the weights and the denominator (0-d).

    Weights are finite and >= 0, their products 0 only where one of them is, and at most `most_of_a_row`. A
    denominator is finite, and > 0 unless no row has any weight.

    Raises:
        ValueError: on CPU tensors. On CUDA an assertion is queued, without a synchronisation.
    """
    _check_range("labels", rows.labels, rows, rows.n_cols)
    if rows.task_ids is not None:
        _check_range("task_ids", rows.task_ids, rows, rows.n_tasks)
    for name in ("task_weights", "token_weights", "class_weights"):
        values = getattr(rows, name)
        if values is not None:
            require_each(values.isfinite() & (values >= 0), f"{name}: expected finite values >= 0", values)
    _check_products(rows)
    if denominator is not None:
        is_positive = (denominator > 0) | ((denominator == 0) & (rows.weights == 0).all())
        require(is_positive & denominator.isfinite(), "denominator: expected a finite value > 0", denominator)


def require(holds: Tensor, expected: str, got: Tensor) -> None:
    """Raises ValueError unless `holds` (0-d bool); on CUDA it queues an assertion.

    Args:
        holds: what must be true.
        expected: the message, "parameter: expected ...".
        got: the value that came, for the message.
    """
    if holds.is_cuda:
        torch._assert_async(holds, expected)
    elif not bool(holds):
        raise ValueError(f"{expected}, got {got.tolist()}")


def require_each(hold: Tensor, expected: str, values: Tensor) -> None:
    """`require` for each of `values`, by `hold` of the same shape; the error shows those that are wrong."""
    if hold.is_cuda:
        torch._assert_async(hold.all(), expected)
    elif not bool(hold.all()):
        wrong = values[~hold]
        raise ValueError(f"{expected}, got {wrong[:8].tolist()}{' and others' if len(wrong) > 8 else ''}")


def _check_range(name: str, values: Tensor, rows: Rows, end: int) -> None:
    is_wrong = rows.valid & ((values < 0) | (values >= end))
    expected = f"{name}: expected values in 0..{end - 1} at valid rows"
    if is_wrong.is_cuda:
        torch._assert_async(~is_wrong.any(), expected)
    elif bool(is_wrong.any()):
        row = int(is_wrong.nonzero()[0])
        raise ValueError(f"{expected}, got {int(values[row])} in row {row}")


def _check_products(rows: Rows) -> None:
    """Each factor may be right, and what float32 makes of two of them not."""
    if rows.task_ids is not None and rows.task_weights is not None and rows.token_weights is not None:
        of_task = rows.task_weights.gather(0, rows.task_ids * rows.valid)
        _refuse_vanished("token_weights", "task_weights", of_task, rows.token_mass, rows.weights)
    mass = rows.weights
    if rows.class_weights is not None:
        of_class = rows.times_class_weight(rows.valid.to(rows.dtype))
        mass = rows.times_class_weight(rows.weights)
        _refuse_vanished("class_weights", "the weights of rows", of_class, rows.weights, mass)
    expected = (
        "task_weights, token_weights, class_weights: expected products whose sum over the rows "
        f"{rows.dtype} can divide by; scale all down, the loss divides by their mean"
    )
    most = most_of_a_row(rows.labels.numel(), rows.dtype)
    require_each(torch.maximum(rows.weights, mass) <= most, expected, mass)


def _refuse_vanished(name: str, others: str, a: Tensor, b: Tensor, product: Tensor) -> None:
    expected = (
        f"{name}: expected products with {others} above 0 in {product.dtype} where both are, as rows "
        "of weight 0 are not trained on; scale all of them up, the loss divides by their mean, or give 0 "
        "where a row is to be left out"
    )
    require_each((product != 0) | (torch.minimum(a, b) <= 0), expected, b)
