"""However the batch is split and the model sharded, the parameters move as in one plain loop."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.integrations.huggingface.equality.groups import Groups
from tests.integrations.huggingface.equality.outcome import movement
from tests.integrations.huggingface.equality.rows import BROKEN, CONTROLS, SHORT, WHOLE, Row
from tests.integrations.huggingface.equality.samples import BATCH, WEIGHTS, pad, samples
from tests.integrations.huggingface.equality.table import lines

# Rows of one kind are one test: its processes start once, whichever worker runs it.
kinds = pytest.mark.parametrize("deepspeed", [False, True], ids=["torch", "deepspeed"])


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with Groups() as started:
        yield started


@kinds
def test_every_row_is_exact(groups: Groups, deepspeed: bool) -> None:
    assert_exact(groups, of_kind(SHORT, deepspeed))


@pytest.mark.full
@kinds
def test_every_row_of_the_whole_table_is_exact(groups: Groups, deepspeed: bool) -> None:
    assert_exact(groups, [row for row in of_kind(WHOLE, deepspeed) if row not in SHORT])


@pytest.mark.parametrize("rows", [CONTROLS, BROKEN], ids=["controls", "a part taken out"])
def test_every_other_loss_misses_a_hundredfold(groups: Groups, rows: tuple[Row, ...]) -> None:
    close = [line for line in lines(groups, rows) if not line.misses]
    assert not close, "\n".join(map(str, close))


def test_the_table_can_tell_losses_apart(groups: Groups) -> None:
    """Losses 20 % apart, weights from 0.25 to 4, ranks of unlike length, parameters that move."""
    losses = sorted(groups.task_losses().values())
    assert all(higher >= 1.2 * lower for lower, higher in pairwise(losses))
    assert (min(WEIGHTS.values()), max(WEIGHTS.values())) == (0.25, 4.0)
    tokens = [pad([record])["labels"].ne(-100).sum().item() for record in samples("all")[:BATCH]]
    assert sum(tokens[: BATCH // 2]) >= 2 * sum(tokens[BATCH // 2 :])
    for row in {(row.data, row.lora, row.tied, row.clip, row.dynamic): row for row in WHOLE}.values():
        assert movement(groups.reference(row)) >= 0.01


def of_kind(rows: tuple[Row, ...], deepspeed: bool) -> list[Row]:
    return [row for row in rows if row.needs_deepspeed == deepspeed]


def assert_exact(groups: Groups, rows: list[Row]) -> None:
    wrong = [line for line in lines(groups, [row for row in rows if not row.not_run]) if not line.is_exact]
    assert not wrong, "\n".join(map(str, wrong))
    missing = sorted({row.not_run for row in rows if row.not_run})
    if missing:
        pytest.skip(f"the rows that could run are exact; not run: {', '.join(missing)}")
