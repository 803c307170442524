"""The candidates of the launch table, on rows so small that the interpreter is quick."""

import pytest
import torch
from triton.runtime.errors import OutOfResources

from benchmarks import launches
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
    assert not any("Error" in line for line in lines)


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
    assert all("AssertionError: the loss is off by 1.0e-02" in line for line in lines)


def test_a_launch_that_the_gpu_has_no_room_for_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipeline of three stages takes 131 KiB of shared memory, of which most cards have 99."""

    def full(*_: object, **__: object) -> None:
        raise OutOfResources(131072, 101376, "shared memory")

    monkeypatch.setattr(gtw_cross_entropy, "gtw_cross_entropy_forward", full)
    launches.main(["--device", "cpu", "--tiny", "--only", "1500"])
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("OutOfResources: out of resource: shared memory" in line for line in lines), lines[0]
