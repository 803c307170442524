"""The public names, their documentation, and what importing the package does not do."""

import inspect
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

import cotbal
from tests.examples import check_examples

NAMES = {
    "GTWLoss",
    "GradientReport",
    "LinearGTWLoss",
    "PatchHandle",
    "Scores",
    "TaskStats",
    "TaskWeights",
    "check_gradients",
    "contribution",
    "difficulty",
    "estimate_weights",
    "gtw_cross_entropy",
    "linear_gtw_cross_entropy",
    "metrics",
    "patch",
    "unpatch",
    "weights_from_signals",
}
# What the others return; each is shown in their examples.
RESULTS = {"TaskStats", "GradientReport", "PatchHandle", "metrics"}


def test_the_public_names_are_these() -> None:
    assert set(cotbal.__all__) == NAMES
    assert all(hasattr(cotbal, name) for name in NAMES)


@pytest.mark.parametrize("name", sorted(NAMES - {"metrics"}))
def test_every_name_is_documented(name: str) -> None:
    assert (inspect.getdoc(getattr(cotbal, name)) or "").strip()


@pytest.mark.parametrize("name", sorted(NAMES - RESULTS))
def test_every_example_runs(name: str) -> None:
    check_examples(getattr(cotbal, name))


@pytest.mark.parametrize("name", cotbal.metrics.__all__)
def test_every_metric_example_runs(name: str) -> None:
    check_examples(getattr(cotbal.metrics, name))


def test_importing_does_nothing_but_import() -> None:
    """No output, no kernel, no GPU, none of the extras' packages."""
    code = (
        "import sys, torch; before = set(sys.modules); import cotbal; cotbal.GTWLoss; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "heavy = new & {'triton', 'transformers', 'matplotlib', 'rich', 'typer', 'sklearn', 'jinja2'}; "
        "assert not heavy, heavy; assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_no_name_is_no_attribute() -> None:
    assert set(NAMES) < set(dir(cotbal))
    for name in ("cross_entropy", "_cross_entropy", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'cotbal' has no attribute '{name}'"):
            getattr(cotbal, name)


def test_names_and_modules_are_there_without_another_import() -> None:
    code = (
        "import sys, cotbal, cotbal.estimate; assert 'torch' not in sys.modules; "
        "cotbal.losses.vocab_parallel_gtw_cross_entropy, cotbal.balancing.DWA, cotbal.estimate.RULES; "
        "from cotbal import *; gtw_cross_entropy, metrics.cider"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "module",
    [
        "cotbal.cli.main",
        "cotbal.runs.worker",
        "cotbal.project.job",
        "cotbal.project.state",
        "cotbal.project.slurm.task",
        "cotbal.collect.one_model",
        "cotbal.data.mix",
        "cotbal.data.check.run",
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(module: str) -> None:
    """A worker of a pool, a Slurm job, a process that checks data, a plan: each would start seconds later."""
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


TYPED = """
import cotbal, torch
from cotbal.losses import vocab_parallel_gtw_cross_entropy
x, y = torch.randn(2, 3, requires_grad=True), torch.tensor([0, 1])
loss: torch.Tensor = cotbal.gtw_cross_entropy(x, y)
cotbal.linear_gtw_cross_entropy(x, x, y).backward()
vocab_parallel_gtw_cross_entropy(x, y).backward()
loss, stats = cotbal.gtw_cross_entropy(x, y, y, torch.ones(2), return_stats=True)
weights: str = cotbal.TaskWeights({"a": 1.0}).weights
"""


# torch is read in full: most of a minute.
@pytest.mark.full
def test_a_type_checker_takes_a_loss_for_a_tensor_and_a_pair_where_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(TYPED)
    words = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    said, *_ = mypy.api.run([*words, str(tmp_path / "script.py")])
    assert "Found 1 error in 1 file" in said, said
    assert (
        'script.py:9: error: Incompatible types in assignment (expression has type "dict[str, float]"' in said
    )
