"""The checks of a real GPU: run where there is one, in a process that sees it; tried in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import csrc_triton.gtw_cross_entropy as kernel
from csrc_triton import vocab_parallel
from tests import on_gpu

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
    # options, of pieces; and the same bits twice.
    assert len([line for line in lines if line.startswith("pass")]) == 3 * 2 * 4 + 2 + 2 * 2 + 2


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


@pytest.mark.parametrize("n_cols", on_gpu.VOCABULARIES)
def test_labels_are_in_every_part_of_a_row(n_cols: int) -> None:
    """In the first step of a long row and in the last: only there do the kernels treat them apart."""
    labels = on_gpu.inputs("cpu", rows=on_gpu.ROWS, n_cols=n_cols)["labels"]
    valid = labels[labels >= 0]
    assert (valid.min(), valid.max()) == (0, n_cols - 1)
    assert len((valid * 8 // n_cols).unique()) == 8
