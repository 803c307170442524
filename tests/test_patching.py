"""The handle of `cotbal.patch`: on and off again, twice refused, and what it takes its weights from."""

import gc
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, Trainer

import cotbal
from cotbal.patching import PatchHandle
from tests.integrations.huggingface.training import TASKS, WEIGHTS, arguments, collator, records, tiny_model


@pytest.fixture(autouse=True)
def nothing_stays_patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("COTBAL_WEIGHTS", raising=False)
    yield
    cotbal.unpatch()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_model()


def put_in(model: Any, **options: Any) -> PatchHandle:
    return cotbal.patch(model, **({"weights": WEIGHTS, "tasks": TASKS, "denominator": "micro"} | options))


def is_patched(model: Any) -> bool:
    return "forward" in vars(model)


def weights_of(handle: PatchHandle) -> dict[str, float]:
    patch: Any = handle.patch
    return patch.loss.balance.weighting.fixed


def test_it_is_on_until_unpatch_which_may_come_twice(model: LlamaForCausalLM) -> None:
    handle = put_in(model)
    assert is_patched(model)
    handle.unpatch()
    assert not is_patched(model)
    again = put_in(model)
    handle.unpatch()
    assert is_patched(model), "an old handle takes nothing off"
    again.unpatch()
    assert not is_patched(model)


def test_as_a_context_it_ends_with_it(model: LlamaForCausalLM) -> None:
    with put_in(model) as handle:
        assert isinstance(handle, cotbal.PatchHandle)
        assert is_patched(model)
    assert not is_patched(model)

    def fail() -> None:
        with put_in(model):
            raise KeyError("the loop's own")

    with pytest.raises(KeyError, match="the loop's own"):
        fail()
    assert not is_patched(model)


def test_unpatch_takes_off_everything_the_last_first(model: LlamaForCausalLM) -> None:
    order = []
    handles = {"first": put_in(model), "second": put_in(tiny_model())}
    for name, handle in handles.items():
        restore = handle.patch.restore
        handle.patch.restore = lambda name=name, restore=restore: (order.append(name), restore())  # type: ignore[method-assign]
    cotbal.unpatch()
    assert order == ["second", "first"]
    assert not is_patched(model)
    cotbal.unpatch()


def test_what_is_patched_goes_with_its_last_reference(tmp_path: Path) -> None:
    """As a search over many trainers needs it: a model stays with its optimizer, for the whole process."""
    trainer = Trainer(tiny_model(), arguments(tmp_path), train_dataset=records(4), data_collator=collator())
    model = tiny_model()
    cotbal.patch(trainer, weights=WEIGHTS)
    put_in(model)
    alive = [weakref.ref(each) for each in (trainer, trainer.model, model)]
    del trainer, model
    gc.collect()
    assert [each() for each in alive] == [None] * 3
    cotbal.unpatch()


def test_a_handle_that_nobody_keeps_is_taken_off_all_the_same(model: LlamaForCausalLM) -> None:
    put_in(model)
    gc.collect()
    with pytest.raises(ValueError, match="target: expected one that is not patched"):
        put_in(model)
    cotbal.unpatch()
    assert not is_patched(model)


def test_its_repr_says_what_was_changed_and_why_the_level(model: LlamaForCausalLM) -> None:
    handle = put_in(model)
    text = repr(handle)
    assert "LlamaForCausalLM: linear level, loss and gradients of a random batch agree" in text
    assert "denominator: that of each micro-batch on one device" in text
    assert "tasks: short, long" in text
    handle.unpatch()
    assert repr(handle) == "<cotbal patch: taken off>"
    text = repr(put_in(model, level="logits", denominator="world"))
    assert 'LlamaForCausalLM: logits level, level="logits" was asked for' in text
    assert "denominator: that of each micro-batch on all ranks" in text


def test_twice_is_refused(model: LlamaForCausalLM) -> None:
    handle = put_in(model)
    with pytest.raises(
        ValueError, match=r"target: expected one that is not patched.* call unpatch\(\) first"
    ):
        put_in(model)
    assert is_patched(model)
    handle.unpatch()
    put_in(model)


def test_what_was_refused_leaves_nothing(model: LlamaForCausalLM) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no weight for task 'other'"):
            put_in(model, tasks=[*TASKS, "other"])
        assert not is_patched(model)


def test_weights_come_from_the_argument_else_from_the_environment_else_they_are_1(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"short": 3.0, "long": 0.5}))
    monkeypatch.setenv("COTBAL_WEIGHTS", str(path))
    with put_in(model, weights=None) as handle:
        assert weights_of(handle) == {"short": 3.0, "long": 0.5}
    with put_in(model) as handle:
        assert weights_of(handle) == WEIGHTS
    path.write_text("[3.0, 0.5]")
    with put_in(model, weights=None, tasks=(name for name in TASKS)) as handle:
        assert weights_of(handle) == {"short": 3.0, "long": 0.5}
    for nothing in ("", None):
        if nothing is None:
            monkeypatch.delenv("COTBAL_WEIGHTS")
        else:
            monkeypatch.setenv("COTBAL_WEIGHTS", nothing)
        with put_in(model, weights=None, tasks=TASKS) as handle:
            assert weights_of(handle) == dict.fromkeys(TASKS, 1.0)


def test_bad_weights_are_told_before_anything_is_changed(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.json"
    path.write_text('{"short": -1}')
    monkeypatch.setenv("COTBAL_WEIGHTS", str(path))
    with pytest.raises(ValueError, match=r"weights\.json: weights\['short'\]: expected a finite weight >= 0"):
        put_in(model, weights=None)
    with pytest.raises(TypeError, match="weights: expected TaskWeights, a mapping, a list, a path or a Weig"):
        put_in(model, weights=3.0)
    assert not is_patched(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "rows"}, "level: expected one of auto, linear, logits, got 'rows'"),
        ({"denominator": "batch"}, "denominator: expected one of step, world, micro, got 'batch'"),
        ({"tasks": []}, "tasks: expected at least one task name, got none"),
        ({"tasks": ["short", "short"]}, "each task may stand once, repeated: short"),
    ],
)
def test_unknown_options(model: LlamaForCausalLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        put_in(model, **options)
    assert not is_patched(model)


def test_an_unknown_level_is_told_before_a_training_is_set_up() -> None:
    """LLaVA's training would come to it hours later."""
    with pytest.raises(ValueError, match="level: expected one of auto, linear, logits, got 'rows'"):
        cotbal.patch(level="rows")


@pytest.mark.parametrize(
    ("target", "got"),
    [
        ("llava", "got str"),
        (LlamaForCausalLM, "got the class LlamaForCausalLM"),
        ({}, "got dict"),
    ],
)
def test_a_target_of_another_kind(target: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"target: expected the module llava, a constructed .*Trainer.*{got}"):
        put_in(target)


def test_a_module_that_is_no_transformers_model() -> None:
    with pytest.raises(TypeError, match="expected a transformers model with a loss function, got Linear"):
        put_in(torch.nn.Linear(2, 2))


def test_without_llava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llava", None)
    with pytest.raises(ImportError, match=r"found no LLaVA: install it .* or pass what to patch") as error:
        cotbal.patch()
    assert error.value.name == "llava"


def test_training_goes_through_it(model: LlamaForCausalLM) -> None:
    """The handle's target is the model that is trained: other weights, another loss."""
    batch, losses = collator()(records(4)), []
    for weights in (WEIGHTS, {"short": 1.0, "long": 1.0}):
        with put_in(model.train(), weights=weights):
            losses.append(model(**batch).loss.item())
    assert abs(losses[0] / losses[1] - 1) > 0.05
