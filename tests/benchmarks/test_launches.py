"""The candidates of the launch table, on rows so small that the interpreter is quick."""

import pytest
import torch

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
