import pytest

from benchmarks import host_time


@pytest.mark.parametrize("case", host_time.CASES, ids=lambda case: case.level)
def test_every_loss_is_timed_after_a_check(case: host_time.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_time, "ROUNDS", 1)
    monkeypatch.setattr(host_time, "STEPS", 1)
    monkeypatch.setattr(host_time, "NAMES", ("cotbal", "torch"))
    found = host_time.microseconds(case, "cpu")
    assert set(found) == {"cotbal as an operator", "cotbal", "torch"}
    assert min(found.values()) > 0
