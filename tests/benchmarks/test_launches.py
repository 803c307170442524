"""The candidates of the launch table, on rows so small that the interpreter is quick."""

import pytest
import torch
from triton.runtime.errors import OutOfResources

from benchmarks import launches, packed_rows
from csrc_triton import gtw_cross_entropy


def test_every_candidate_is_right_and_the_table_s_own_stands_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    launches.main(["--device", "cpu", "--tiny", "--only", "1500"])
    _, _, *lines = capsys.readouterr().out.splitlines()
    first = {line.split()[1]: line for line in reversed(lines)}
    assert all(line.endswith("the table's") for line in first.values()), first
    assert len(first) == len(launches.FORMS)
    assert len(lines) > 2 * len(first)
    assert [line.split()[1] for line in lines if line.endswith("packed")] == ["gradient"]
    assert not any("Error" in line for line in lines)


def test_rows_of_the_linear_level_are_as_it_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide logits, a gradient for 16-bit products, rows that start at multiples of 64."""
    seen = set()
    right = gtw_cross_entropy.gtw_cross_entropy_forward

    def looking(
        logits: torch.Tensor, *others: object, gradient: torch.Tensor, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen.add((logits.dtype, gradient.dtype, logits.stride(0), gradient.stride(0)))
        return right(logits, *others, gradient=gradient, **options)

    monkeypatch.setattr(gtw_cross_entropy, "gtw_cross_entropy_forward", looking)
    launches.main(["--device", "cpu", "--tiny", "--only", "1500", "--form", "linear"])
    assert seen == {(torch.float32, torch.bfloat16, 1536, 1536)}
    assert launches.Shape(2048, 128256, "linear").n_bytes == 6 * 2048 * 128256


def test_a_wrong_number_is_no_timing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gtw_cross_entropy.gtw_cross_entropy_forward

    def wrong(*arguments: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        losses, correct = right(*arguments, **options)
        return losses + 0.01, correct

    monkeypatch.setattr(gtw_cross_entropy, "gtw_cross_entropy_forward", wrong)
    launches.main(["--device", "cpu", "--tiny", "--only", "1500"])
    _, _, *lines = capsys.readouterr().out.splitlines()
    ours = [line for line in lines if not line.endswith("packed")]
    assert all("AssertionError: the loss is off by 1.0e-02" in line for line in ours)


def test_a_gradient_that_is_not_written_is_no_timing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds nothing of the candidate before it."""
    right = packed_rows.packed_forward

    def forgetful(*arguments: torch.Tensor) -> torch.Tensor:
        *others, gradient = arguments
        return right(*others, torch.empty_like(gradient))

    monkeypatch.setattr(packed_rows, "packed_forward", forgetful)
    launches.main(["--device", "cpu", "--tiny", "--only", "1500", "--form", "gradient"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.endswith("packed"))
    assert "AssertionError: the gradient is not finite, or not written" in line


def test_a_launch_that_the_gpu_has_no_room_for_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline of three stages takes 131 KiB of shared memory, of which most cards have 99."""

    def full(*_: object, **__: object) -> None:
        raise OutOfResources(131072, 101376, "shared memory")

    monkeypatch.setattr(gtw_cross_entropy, "gtw_cross_entropy_forward", full)
    launches.main(["--device", "cpu", "--tiny", "--only", "1500"])
    _, _, *lines = capsys.readouterr().out.splitlines()
    ours = [line for line in lines if not line.endswith("packed")]
    assert ours
    assert all("OutOfResources: out of resource: shared memory" in line for line in ours), ours[0]


@pytest.mark.parametrize("n_cols", [32000, 32003, 100])
@pytest.mark.parametrize("kind", ["random", "peaked", "confident", "with -inf"])
def test_packed_rows_are_those_of_the_reference(n_cols: int, kind: str) -> None:
    """With the gradient over the logits, labels at both ends, a row that is not read."""
    generator = torch.Generator().manual_seed(n_cols)
    n_rows = 5
    logits = (torch.randn(n_rows, n_cols, generator=generator) * (30 if kind == "peaked" else 3)).bfloat16()
    labels = torch.tensor([0, n_cols - 1, 15, 16, n_cols // 2])
    weights = torch.tensor([0.5, 1.0, 1.5, 0.0, 2.0])
    if kind == "confident":
        logits[torch.arange(n_rows), labels] += 20
    if kind == "with -inf":
        logits[:, ::3] = float("-inf")
        logits[torch.arange(n_rows), labels] = 1
    exact = logits.double().requires_grad_()
    c = torch.nn.functional.cross_entropy(exact, labels, reduction="none")
    (wanted,) = torch.autograd.grad((weights * c).sum() / weights.sum().double(), exact)
    losses = packed_rows.packed_forward(logits, labels, weights, weights.sum(), logits)
    torch.testing.assert_close(losses.double(), c.detach() * (weights != 0), rtol=1e-6, atol=1e-7)
    # A unit in the last place of bfloat16, of each: the label's is formed without cancellation.
    torch.testing.assert_close(logits.double(), wanted, rtol=2**-7, atol=1e-37)


def test_packed_rows_leave_alone_what_is_not_read_and_pass_a_nan_on() -> None:
    logits = torch.zeros(3, 100, dtype=torch.bfloat16)
    logits[0], logits[1, 50] = float("nan"), float("nan")
    gradient = torch.full_like(logits, 7.0)
    weights = torch.tensor([0.0, 1.0, 1.0])
    losses = packed_rows.packed_forward(logits, torch.tensor([3, 3, 3]), weights, weights.sum(), gradient)
    assert losses[0] == 0
    assert losses[1].isnan()
    assert losses[2].isfinite()
    assert (gradient[0] == 0).all()
    assert gradient[1].isnan().all()
    assert gradient[2].isfinite().all()
