"""The shipped DeepSpeed configurations, as they are, in the real engine on two processes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.huggingface.equality.groups import Groups

pytest.importorskip("deepspeed")

FOLDER = Path(__file__).parents[3] / "integrations" / "deepspeed"
STAGES = (2, 3)


@pytest.fixture(scope="module")
def groups() -> Iterator[Groups]:
    with Groups() as started:
        yield started


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_is_given_and_sizes_are_whole_numbers(stage: int) -> None:
    """Without the first DeepSpeed 0.19.8 clips at 1.0; older Trainers make fractions of "auto" sizes."""
    configuration = json.loads((FOLDER / f"zero{stage}.json").read_text())
    assert isinstance(configuration["gradient_clipping"], float)
    options = configuration["zero_optimization"]
    sizes = {name: value for name, value in options.items() if "size" in name or "threshold" in name}
    assert sizes
    assert all(type(value) is int for value in sizes.values()), sizes


@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_takes_it_as_it_is(groups: Groups, stage: int, tmp_path: Path) -> None:
    configuration = str(FOLDER / f"zero{stage}.json")
    for made in groups.call(2, "run_shipped", configuration, str(tmp_path), 1.0):
        assert (made["stage"], made["clipping"]) == (stage, 1.0)
        assert len(made["losses"]) == 2
        assert all(math.isfinite(loss) for loss in made["losses"])


def test_another_clipping_of_the_trainer_is_refused(groups: Groups, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_grad_norm"):
        groups.call(2, "run_shipped", str(FOLDER / "zero2.json"), str(tmp_path), 0.5)
