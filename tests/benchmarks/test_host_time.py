from typing import Any

import pytest

from benchmarks import host_time
from cotbal import losses


@pytest.mark.parametrize("case", host_time.CASES, ids=lambda case: case.level)
def test_every_loss_is_timed_after_a_check(case: host_time.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_time, "ROUNDS", 1)
    monkeypatch.setattr(host_time, "STEPS", 1)
    monkeypatch.setattr(host_time, "NAMES", ("cotbal", "cotbal kept", "torch"))
    operators = count_calls(monkeypatch)
    found = host_time.microseconds(case, "cpu")
    operated = host_time.OPERATED[case.level]
    assert set(found) == {operated, f"{operated} as an operator", "cotbal", "torch"}
    assert min(found.values()) > 0
    # Twice, the first round compiles; the check before is of plain calls.
    assert operators == [f"{case.level}"] * 2


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The level of each call of one of our operators, from now on."""
    made: list[str] = []
    for level, name in (("logits", "gtw_cross_entropy_op"), ("linear", "linear_gtw_cross_entropy_op")):

        def called(*given: Any, level: str = level, operator: Any = getattr(losses, name)) -> Any:
            made.append(level)
            return operator(*given)

        monkeypatch.setattr(losses, name, called)
    return made
