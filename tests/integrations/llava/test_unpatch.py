"""After `unpatch()` LLaVA's classes are what they were, and so is a run."""

from typing import Any

import pytest
import transformers
from llava.model import LlavaLlamaForCausalLM, LlavaMistralForCausalLM, llava_arch
from llava.train import train as llava_train
from llava.train.llava_trainer import LLaVATrainer

import cotbal
from tests.integrations.llava.cases import WEIGHTS, Case
from tests.integrations.llava.runs import run_cases
from tests.integrations.llava.world import World

_CLASSES = (
    LLaVATrainer,
    LlavaLlamaForCausalLM,
    LlavaMistralForCausalLM,
    llava_arch.LlavaMetaForCausalLM,
    llava_train.DataCollatorForSupervisedDataset,
    llava_train.LazySupervisedDataset,
    transformers.LlamaForCausalLM,
    transformers.Trainer,
)


def _contents() -> list[dict[str, Any]]:
    return [dict(vars(each)) for each in (*_CLASSES, llava_train)]


def _is_the_same(before: list[dict[str, Any]]) -> bool:
    return all(
        one.keys() == other.keys() and all(one[name] is other[name] for name in one)
        for one, other in zip(before, _contents(), strict=True)
    )


def test_unpatch_gives_the_classes_back() -> None:
    before = _contents()
    handle = cotbal.patch(weights=WEIGHTS)
    assert not _is_the_same(before)
    handle.unpatch()
    assert _is_the_same(before)


def test_the_end_of_a_with_block_gives_the_classes_back() -> None:
    before = _contents()
    with pytest.raises(KeyError), cotbal.patch(weights=WEIGHTS):
        raise KeyError
    assert _is_the_same(before)


def test_importing_cotbal_patches_nothing() -> None:
    assert "cotbal" not in LLaVATrainer.training_step.__module__


def test_the_handle_says_what_was_changed() -> None:
    with cotbal.patch(weights=WEIGHTS) as handle:
        assert "LLaVATrainer" in repr(handle)
        assert "LazySupervisedDataset" in repr(handle)


def test_a_run_after_unpatch_equals_an_untouched_one(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cases = [Case("untouched", weights=None), Case("patched"), Case("after", weights=None)]
    runs = run_cases(world, tmp_path_factory.mktemp("unpatch") / "runs", cases)
    untouched, patched, after = (runs[case.name][0] for case in cases)
    assert _returned(after) == _returned(untouched) != _returned(patched)
    assert all(after.end[name].equal(untouched.end[name]) for name in untouched.end)


def _returned(run: Any) -> list[list[float]]:
    return [step.returned for step in run.steps.values()]
