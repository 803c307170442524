"""Breaks the loss on purpose, one way at a time, and shows which tests notice: `make test-breakage`.

Each breakage is made in a copy of the tree. Exit code 1 if the tests stay green under any of them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = ("tests/laws", "tests/test_losses.py")


@dataclass(frozen=True)
class Breakage:
    """One line of the code replaced by a wrong one."""

    name: str
    file: str
    right: str
    wrong: str


BREAKAGES = (
    Breakage(
        "the weight is left out of the denominator",
        "cotbal/losses.py",
        "return weights.sum() if denominator is None",
        "return (weights != 0).to(weights.dtype).sum() if denominator is None",
    ),
    Breakage(
        "valid tokens are found by loss != 0",
        "cotbal/ops.py",
        "    total = weighted.sum()\n",
        "    total = weighted.sum()\n"
        "    denominator = None if denominator is None else (weights * (losses != 0)).sum()\n",
    ),
    Breakage(
        "the label's term of the gradient is dropped (torch)",
        "csrc_triton/torch_path.py",
        ".scatter_(1, column, -others * factor)",
        "",
    ),
    Breakage(
        "the label's term of the gradient is dropped (Triton)",
        "csrc_triton/gtw_cross_entropy.py",
        "tl.where(cols == label, -others, tl.exp(z - shift)) * factor",
        "tl.exp(z - shift) * factor",
    ),
    Breakage(
        "the label's gradient is formed as p - 1 (Triton)",
        "csrc_triton/gtw_cross_entropy.py",
        "tl.where(cols == label, -others, tl.exp(z - shift)) * factor",
        "(tl.exp(z - shift) / total - tl.where(cols == label, 1.0, 0.0)) * scale",
    ),
    Breakage(
        "the kernel forgets the task weight",
        "csrc_triton/gtw_cross_entropy.py",
        "weight *= tl.load(task_weights_ptr + task_id, mask=is_valid, other=0.0)",
        "weight *= 1.0",
    ),
    Breakage(
        "the upstream gradient is not applied (Triton)",
        "csrc_triton/gtw_cross_entropy.py",
        "    if factor == 1.0:\n",
        "    if factor == factor:\n",
    ),
    Breakage(
        "only the last chunk's weight gradient is kept",
        "csrc_triton/linear_gtw_cross_entropy.py",
        "return total.add_(product)",
        "return total.copy_(product)",
    ),
    Breakage(
        "lanes of -inf are not guarded (Triton)",
        "csrc_triton/gtw_cross_entropy.py",
        'shift = tl.where(new_max == float("-inf"), 0.0, new_max)',
        "shift = new_max",
    ),
    Breakage(
        "task ids out of range are let through",
        "cotbal/_inputs.py",
        "in_range = (rows.task_ids >= 0) & (rows.task_ids < n_tasks)",
        "in_range = rows.task_ids >= 0",
    ),
    Breakage(
        "rows of weight 0 are read",
        "csrc_triton/torch_path.py",
        "torch.nonzero(weights)[:, 0]",
        "torch.nonzero(labels >= 0)[:, 0]",
    ),
)


def failing_tests(breakage: Breakage, folder: Path) -> set[str]:
    """The tests (without their parameters) that fail in a copy of the tree with this breakage."""
    for name in ("cotbal", "csrc_triton", "integrations", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / breakage.file
    code = path.read_text()
    if code.count(breakage.right) != 1:
        raise SystemExit(
            f"{breakage.file}: expected once, found {code.count(breakage.right)}: {breakage.right}"
        )
    path.write_text(code.replace(breakage.right, breakage.wrong))
    command = [sys.executable, "-m", "pytest", *TESTS, "-n", "2", "-m", "not full", "--tb=no", "-rf"]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "breakage"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return set(re.findall(r"^FAILED (\S+?)(?:\[|\s|$)", done.stdout, re.MULTILINE))


def main() -> int:
    unnoticed = 0
    for breakage in BREAKAGES:
        with tempfile.TemporaryDirectory() as folder:
            failed = failing_tests(breakage, Path(folder))
        unnoticed += not failed
        print(f"{breakage.name}: {len(failed)} tests fail" if failed else f"{breakage.name}: NOT NOTICED")
        for test in sorted(failed):
            print(f"    {test}")
        sys.stdout.flush()
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
