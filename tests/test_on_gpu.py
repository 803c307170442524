"""The checks of a real GPU: run where there is one, in a process that sees it; tried in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import csrc_triton.gtw_cross_entropy as kernel
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
    # Three dtypes, with and without options, four ways; and the same bits twice.
    assert len([line for line in lines if line.startswith("pass")]) == 3 * 2 * 4 + 2


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
