"""The check before every timing: it passes what is right and sees what is not."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from benchmarks.inputs import KINDS, Case, make_inputs
from benchmarks.meters import MIB, CpuMeter
from benchmarks.provider import Provider
from benchmarks.providers import find_providers
from benchmarks.runner import is_right
from benchmarks.step import Reference, check, step

CASES = [
    Case("logits", 24, 131, share=0.5, dtype="float32"),
    Case("linear", 24, 131, 32, share=0.5, dtype="float32"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upstream", [1.0, 0.25])
def test_every_loss_that_runs_here_is_right(case: Case, kind: str, upstream: float) -> None:
    used = Case(case.level, case.rows, case.vocabulary, case.width, 0.5, kind, upstream, dtype=case.dtype)
    found, _ = find_providers(case.level)
    for provider in found:
        # p - 1 loses a confident row's gradient: a rival's own error, which the tables publish.
        if not provider.slow_start and (provider.ours or kind != "confident"):
            for name, error in check(provider, used).items():
                assert is_right(error, used), (provider.name, name, error)


def test_confident_rows_lead_by_the_margin() -> None:
    for case in CASES:
        inputs = make_inputs(Case(case.level, 16, 131, case.width, 1.0, "confident", dtype="float32"))
        logits = inputs.features[0]
        if case.level == "linear":
            logits = logits @ inputs.features[1].t()
        column = inputs.labels[:, None]
        rest = logits.scatter(1, column, -torch.inf).amax(1)
        assert ((logits.gather(1, column)[:, 0] - rest) > 19.9).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "wrong", ["unweighted", "a row more", "gradient of ignored rows", "a fifth more", "a task's weight"]
)
def test_a_wrong_loss_is_seen(wrong: str, dtype: str) -> None:
    def loss(inputs):
        rows = F.cross_entropy(inputs.features[0], inputs.labels, reduction="none")
        scale = inputs.row_scale.clone()
        if wrong == "unweighted":
            scale = (scale > 0) / inputs.valid_count
        elif wrong == "a row more":
            scale[int(scale.argmax())] = 0
        elif wrong == "a fifth more":
            scale *= 1.2
        elif wrong == "a task's weight":
            scale[inputs.task_ids == 1] *= 1.2
        total = torch.dot(rows.float(), scale)
        ignored = inputs.features[0][inputs.labels == -100]
        return total + (0.01 * ignored.sum() - 0.01 * ignored.sum().detach() if "ignored" in wrong else 0)

    case = replace(CASES[0], dtype=dtype)
    errors = check(Provider("wrong", "logits", loss, ""), case)
    assert not all(is_right(error, case) for error in errors.values())


def test_a_check_takes_one_copy_of_the_head() -> None:
    """In float64: on a GPU it stands beside the loss's own gradients."""
    case = Case("linear", 16, 4096, 64)
    (ours,) = find_providers("linear", names=("cotbal",))[0]
    reference, got = Reference(case), step(ours, make_inputs(case))
    peak = CpuMeter().peak_mib(lambda: reference.errors(got))
    assert peak < 1.1 * 8 * case.vocabulary * case.width / MIB
