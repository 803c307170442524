"""Data and weights as VisATB, the authors' later code, has them: "task" in each record, weights in a list."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from llava.train.train import LazySupervisedDataset

import cotbal
from tests.integrations.llava.cases import WEIGHTS, Case
from tests.integrations.llava.oracle import loss_error
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.step_loss_cases import BOUND
from tests.integrations.llava.world import World

# LLaVA does not close the file of its records.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _nothing_stays_patched() -> Iterator[None]:
    yield
    cotbal.unpatch()


def test_a_run_with_a_list(world: World, tasks: list[str], tmp_path: Path) -> None:
    case = Case("list", weights="list", patch={"tasks": [*WEIGHTS]})
    ranks = run_cases(world, tmp_path / "runs", [case])[case.name]
    assert not ranks[0].error
    assert loss_error(ranks, tasks, WEIGHTS) <= BOUND
    turned = dict(zip(WEIGHTS, reversed(WEIGHTS.values()), strict=True))
    assert loss_error(ranks, tasks, turned) > 100 * BOUND


def test_a_file_with_a_list_takes_the_tasks_order(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps([1.7, 0.4, 2.5]))
    cotbal.patch(weights=path, tasks=["vqa", "caption", "grounding"])
    records = tmp_path / "records.json"
    records.write_text(json.dumps([{"id": 1, "task": "grounding"}, {"id": 2, "task": "chat"}]))
    with pytest.raises(ValueError, match=r"1 of 2 records.*record 2 of 'chat'.*vqa, caption, grounding"):
        LazySupervisedDataset(str(records), tokenizer=None, data_args=None)


def test_a_list_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="tasks"):
        cotbal.patch(weights=[1.7, 0.4])
    with pytest.raises(ValueError, match="weights"):
        cotbal.patch(weights=[1.7, 0.4], tasks=["vqa", "caption", "chat"])
