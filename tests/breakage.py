"""Breaks the loss on purpose, one way at a time, and shows which tests notice: `make test-breakage`.

Each breakage is made in a copy of the tree. `python -m tests.breakage z-loss (torch)` makes those alone whose
names have each of these words; `--first` stops each at the first test that notices, in less time.
Exit code 1 if the tests stay green under any of them.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.broken_lines import BROKEN_LINES

ROOT = Path(__file__).parent.parent
# Those that notice most, and soon, first.
TESTS = (
    "tests/laws/test_gtw_laws.py",
    "tests/test_losses.py",
    "tests/test_losses_input.py",
    "tests/test_weight_products.py",
    "tests/csrc_triton/test_row_sums.py",
    "tests/csrc_triton/test_gtw_cross_entropy.py",
    "tests/test_inplace.py",
    "tests/test_backward_twice.py",
    "tests/test_accumulated_weight.py",
    "tests/traps",
    "tests/laws",
    "tests/csrc_triton/test_linear_gtw_cross_entropy.py",
    "tests/test_compile_ops.py",
    "tests/test_vocab_parallel.py",
)

# What the tests of the loss do not reach has its own.
OWN_TESTS = {
    "integrations/huggingface/model_loss.py": ("tests/integrations/huggingface/test_model_loss.py",),
}


@dataclass(frozen=True)
class Breakage:
    """One line of the code replaced by a wrong one."""

    name: str
    file: str
    right: str
    wrong: str


BREAKAGES = tuple(
    Breakage(name, file, right, wrong)
    for file, lines in BROKEN_LINES.items()
    for name, (right, wrong) in lines.items()
)


def failing_tests(breakage: Breakage, folder: Path, *, only_first: bool) -> set[str]:
    """The tests (without their parameters) that fail in a copy of the tree with this breakage."""
    for name in ("cotbal", "csrc_triton", "integrations", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # The copy's adapters, and not those that are installed.
    (folder / "cotbal" / "integrations").symlink_to(folder / "integrations")
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / breakage.file
    code = path.read_text()
    if code.count(breakage.right) != 1:
        raise SystemExit(
            f"{breakage.file}: expected once, found {code.count(breakage.right)}: {breakage.right}"
        )
    path.write_text(code.replace(breakage.right, breakage.wrong))
    how = ["-x", "-p", "no:xdist"] if only_first else ["-n", "2"]
    tests = OWN_TESTS.get(breakage.file, TESTS)
    command = [sys.executable, "-m", "pytest", *tests, *how, "-m", "not full", "--tb=no", "-rf"]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "breakage"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        # An address out of bounds ends the interpreter's process: noticed, and by all that follows.
        return {f"(the tests' process, signal {-done.returncode})"}
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return set(re.findall(r"^FAILED (\S+?)(?:\[|\s|$)", done.stdout, re.MULTILINE))


def main(words: list[str]) -> int:
    only_first, unnoticed = "--first" in words, 0
    words = [word for word in words if word != "--first"]
    for breakage in (each for each in BREAKAGES if all(word in each.name for word in words)):
        with tempfile.TemporaryDirectory() as folder:
            failed = failing_tests(breakage, Path(folder), only_first=only_first)
        unnoticed += not failed
        print(f"{breakage.name}: {len(failed)} tests fail" if failed else f"{breakage.name}: NOT NOTICED")
        for test in sorted(failed):
            print(f"    {test}")
        sys.stdout.flush()
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
