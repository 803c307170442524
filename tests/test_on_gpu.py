"""The checks of a real GPU: run where there is one, in a process that sees it; tried in the interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import csrc_triton.gtw_cross_entropy as kernel
from cotbal.balancing import StaticWeights
from csrc_triton import compact, linear_gtw_cross_entropy, vocab_parallel
from csrc_triton.compact import CUDA_ALIGNMENT
from tests import gpu_inputs, on_gpu, on_gpu_rows

HAS_GPU = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
def test_the_kernels_on_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = environment.pop("TESTS_GPUS")
    done = subprocess.run(
        [sys.executable, "-m", "tests.on_gpu"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_checks_pass_in_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--device", "cpu", "--tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Three dtypes, with and without options, four ways; two dtypes of statistics and, with and without
    # options, of pieces, of rows left out in three ways, and all, and of what is not finite in four; three
    # views, three ways; the last of many rows, by two kernels; and the same bits twice.
    many = 3 * 2 * 4 + 2 + 2 * 2 + 2 * 2 * 3 + 2 + 2 * 2 * 4 + 3 * 3 + 2 + 2
    assert len([line for line in lines if line.startswith("pass")]) == many


def test_a_wrong_kernel_fails_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = kernel.gtw_cross_entropy_forward

    def wrong(*arguments: Any, gradient: Any, **options: Any) -> Any:
        result = right(*arguments, gradient=gradient, **options)
        gradient.mul_(1.1)
        return result

    monkeypatch.setattr(kernel, "gtw_cross_entropy_forward", wrong)
    which = "logits, V = 40, bfloat16, no options"
    assert on_gpu.main(["--device", "cpu", "--tiny", "--only", which]) == 1
    assert f"FAIL  {which}: AssertionError" in capsys.readouterr().out


def test_wrong_statistics_fail_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that leads is taken for one that does not: no loss and no gradient show it."""
    right = kernel.gtw_cross_entropy_forward

    def wrong(*arguments: Any, **options: Any) -> Any:
        losses, correct = right(*arguments, **options)
        return losses, ~correct

    monkeypatch.setattr(kernel, "gtw_cross_entropy_forward", wrong)
    assert on_gpu.main(["--device", "cpu", "--tiny", "--only", "statistics, V = 40, torch.float32"]) == 1


def test_a_wrong_piece_fails_them(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vocab_parallel.piece_losses

    def wrong(*arguments: Any, gradient: Any, **options: Any) -> Any:
        result = right(*arguments, gradient=gradient, **options)
        gradient[:, -1] = 0
        return result

    monkeypatch.setattr(vocab_parallel, "piece_losses", wrong)
    which = "pieces, V = 40, torch.float32, no options"
    assert on_gpu.main(["--device", "cpu", "--tiny", "--only", which]) == 1


def changed_after(monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]) -> None:
    """The kernel, and then a change: of the logits, the labels, the weights and the gradient."""
    right = kernel.gtw_cross_entropy_forward

    def wrong(logits: Tensor, labels: Tensor, weights: Tensor, *others: Any, **options: Any) -> Any:
        result = right(logits, labels, weights, *others, **options)
        change(logits, labels, weights, options["gradient"])
        return result

    monkeypatch.setattr(kernel, "gtw_cross_entropy_forward", wrong)


def unwritten(logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor) -> None:
    gradient[weights == 0] = torch.nan


def finite(logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor) -> None:
    gradient.nan_to_num_()


def beside(logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor) -> None:
    if gradient.stride(0) > gradient.shape[1]:
        gradient.as_strided(gradient.shape, gradient.stride(), gradient.storage_offset() + 1)[:, -1] = 0


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (unwritten, "left out, logits, V = 40, torch.bfloat16, no options"),
        (unwritten, "left out, logits, all rows"),
        (unwritten, "not finite, apart from column 0, V = 40, torch.bfloat16, no options"),
        (finite, "not finite, in place from column 0, V = 40, torch.bfloat16, no options"),
        (unwritten, "beyond 2^31 elements, row_gradient"),
        (beside, "not finite, in place from column 3, V = 40, torch.bfloat16, no options"),
        (beside, "not finite, apart from column 0, V = 40, torch.bfloat16, no options"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_a_row_is_given_wrongly_fails_them(
    change: Callable[..., None], which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--device", "cpu", "--tiny", "--only", which]
    assert on_gpu.main(arguments) == 0
    changed_after(monkeypatch, change)
    assert on_gpu.main(arguments) == 1


def test_rows_that_are_put_back_wrongly_fail_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(losses: Tensor, correct: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        return compact.put_rows(losses, correct, inverse.roll(1))

    wrong = replace(compact.IN_TORCH, put=shifted)
    monkeypatch.setattr(linear_gtw_cross_entropy, "IN_TORCH", wrong)
    which = "left out, linear, V = 40, torch.bfloat16, no options"
    assert on_gpu.main(["--device", "cpu", "--tiny", "--only", which]) == 1


@pytest.mark.parametrize("n_cols", on_gpu.VOCABULARIES)
def test_rows_are_really_left_out_on_a_gpu(n_cols: int) -> None:
    """Padded to a multiple of 128 they are still fewer than all: else each keeps its place."""
    n_rows = on_gpu_rows.MORE_ROWS * on_gpu.ROWS
    count = int((on_gpu_rows.few("cpu", n_rows, n_cols)["labels"] >= 0).sum())
    assert 0 < count <= CUDA_ALIGNMENT < n_rows / 2


def test_a_view_that_is_taken_for_its_rows_fails_them(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernel.gtw_cross_entropy_forward

    def wrong(logits: Tensor, *others: Any, **options: Any) -> Any:
        return right(logits.as_strided(logits.shape, (logits.shape[1], 1)), *others, **options)

    monkeypatch.setattr(kernel, "gtw_cross_entropy_forward", wrong)
    for view in on_gpu_rows.VIEWS[:2]:
        arguments = ["--device", "cpu", "--tiny", "--only", f"views, logits, {view.__name__}"]
        assert on_gpu.main(arguments) == 1


def test_a_weighting_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise ValueError("no such rule")

    rules = {"a": broken, "b": StaticWeights, "torchjd GeometricMean": broken}
    monkeypatch.setattr("tests.balancing.rules.all_rules", lambda n_tasks: rules)
    monkeypatch.setattr(on_gpu, "waits_for_nothing", lambda step: step())
    monkeypatch.setattr(on_gpu, "groups", lambda *_, **__: [("weightings", on_gpu.weightings("cpu"))])
    assert on_gpu.main(["--device", "cpu"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  weighting a, nothing waits: ValueError: no such rule",
        "pass  weighting b, nothing waits",
        "1 failed",
    ]


def test_checks_that_cannot_be_made_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first() -> Iterator[gpu_inputs.Check]:
        yield "one", lambda: None
        raise RuntimeError("out of memory")

    second: Iterator[gpu_inputs.Check] = iter([("two", lambda: None)])
    monkeypatch.setattr(on_gpu, "groups", lambda *_, **__: [("first", first()), ("second", second)])
    # Whatever was asked for: it may be among those that are missing.
    assert on_gpu.main(["--device", "cpu", "--only", "two"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  first, its other checks: RuntimeError: out of memory",
        "pass  two",
        "1 failed",
    ]


@pytest.mark.parametrize("n_cols", on_gpu.VOCABULARIES)
def test_labels_are_in_every_part_of_a_row(n_cols: int) -> None:
    """In the first step of a long row and in the last: only there do the kernels treat them apart."""
    labels = on_gpu.inputs("cpu", rows=on_gpu.ROWS, n_cols=n_cols)["labels"]
    valid = labels[labels >= 0]
    assert (valid.min(), valid.max()) == (0, n_cols - 1)
    assert len((valid * 8 // n_cols).unique()) == 8
