"""Segments of packed rows that see each other: kept apart, or refused, and never trained on in silence."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

import cotbal
from cotbal.integrations.huggingface import TaskCollator
from cotbal.integrations.huggingface.segments import Segments
from tests.generators import of_gpus, seeds
from tests.integrations.huggingface.level_cases import CASES, build
from tests.integrations.huggingface.training import TASKS, OrderedTrainer, arguments, records

# It hands no positions to its masks.
LEAKS = {"GptOssForCausalLM"}
IN_FOUR_ROWS = {
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Glm4vForConditionalGeneration",
}


def made(name: str) -> nn.Module:
    """A model in training mode whose attention matters to its logits, and that draws nothing."""
    torch.manual_seed(0)
    model, _ = build(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in key:
                parameter.mul_(8)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def packed(model: nn.Module) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """Three records as rows of their own, and packed as `DataCollatorWithFlattening` does."""
    drawn = torch.Generator().manual_seed(1)
    rows = [{"input_ids": torch.randint(3, 90, (1, length), generator=drawn)} for length in (6, 9, 5)]
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        # Those of what follows a prompt.
        rows = [row | {"token_type_ids": torch.ones_like(row["input_ids"])} for row in rows]
    row = {key: torch.cat([each[key] for each in rows], 1) for key in rows[0]}
    positions = torch.cat([torch.arange(each["input_ids"].shape[1]) for each in rows])[None]
    return rows, row | {"labels": row["input_ids"].clone(), "position_ids": positions}


def logits(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "labels"}).logits


@pytest.mark.parametrize("name", list(CASES))
def test_a_packed_row_is_computed_record_by_record_or_refused(name: str) -> None:
    model = made(name)
    rows, batch = packed(model)
    segments = Segments(model)
    if name in LEAKS:
        with pytest.raises(
            ValueError, match=rf"position_ids: expected {name} to keep the segments .* Pad the"
        ):
            segments.keep_apart(model, batch)
        return
    segments.keep_apart(model, batch)
    assert batch["use_cache"] is False
    assert batch["position_ids"].ndim == (3 if name in IN_FOUR_ROWS else 2)
    alone = torch.cat([logits(model, row | {"use_cache": False}) for row in rows], 1)
    assert torch.allclose(logits(model, batch), alone, rtol=0, atol=1e-4 * float(alone.abs().max()))


def test_the_model_and_the_random_state_stay_as_they_are() -> None:
    model = made("LlamaForCausalLM")
    _, batch = packed(model)
    state = torch.random.get_rng_state()
    Segments(model).keep_apart(model, batch)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_generators_of_all_gpus_of_a_model_are_seeded_and_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its layers are on cuda:1 and cuda:2, its batch is on neither; another rank's draws are on cuda:0."""
    model = made("LlamaForCausalLM")
    generators = of_gpus(monkeypatch)
    with FakeTensorMode():
        for device in ("cuda:1", "cuda:2"):
            model.register_buffer(f"on_{device[-1]}", torch.ones(1, device=device))
    before, during = [each.get_state() for each in generators], []

    def forward(**given: Any) -> Any:
        during.append(seeds())
        return model(**given)

    Segments(model).keep_apart(forward, packed(model)[1])
    assert during == [[7, 0, 0]] * 2
    assert all(torch.equal(one.get_state(), state) for one, state in zip(generators, before, strict=True))


def test_it_is_asked_once_for_each_layout_and_not_of_rows_that_are_not_packed() -> None:
    model = made("LlamaForCausalLM")
    _, batch = packed(model)
    calls: list[set[str]] = []

    def forward(**given: Any) -> Any:
        calls.append(set(given))
        return model(**given)

    segments = Segments(model)
    padded = batch | {"attention_mask": torch.ones_like(batch["input_ids"])}
    segments.keep_apart(forward, padded)
    assert "use_cache" not in padded
    # One token alone tells nothing: the next batch is asked with.
    segments.keep_apart(forward, batch | {"labels": torch.full_like(batch["labels"], -100)})
    segments.keep_apart(forward, {**batch, "shift_labels": batch["labels"]})
    assert not calls
    segments.keep_apart(forward, dict(batch))
    segments.keep_apart(forward, dict(batch))
    assert calls == [{"input_ids", "position_ids", "use_cache"}] * 2
    boundaries = {"cu_seq_lens_q": torch.tensor([0, 6, 15, 20], dtype=torch.int32), "max_length_q": 9}
    segments.keep_apart(forward, batch | boundaries)
    assert calls[2:] == [{"input_ids", "position_ids", "use_cache", *boundaries}] * 2


def test_a_compiled_model_is_not_compiled_for_it() -> None:
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(1)
        return graph

    model = made("LlamaForCausalLM")
    compiled = torch.compile(model, backend=backend)
    Segments(model).keep_apart(compiled, packed(model)[1])
    assert not graphs
    logits(compiled, packed(model)[1])
    assert graphs


def test_what_cannot_be_asked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = made("LlamaForCausalLM")

    def fails(**_: Any) -> Any:
        raise KeyError("pixel_values")

    Segments(model).keep_apart(fails, packed(model)[1])
    assert "LlamaForCausalLM: whether attention keeps the segments" in caplog.text
    assert "KeyError: 'pixel_values'" in caplog.text


def equation_2(model: nn.Module, data: list[dict[str, Any]], weights: dict[str, float]) -> float:
    """Each record by itself."""
    total = count = 0.0
    for record in data:
        ids, labels = torch.tensor([record["input_ids"]]), torch.tensor(record["labels"])
        losses = nn.functional.cross_entropy(
            logits(model, {"input_ids": ids, "use_cache": False})[0, :-1].double(),
            labels[1:],
            reduction="none",
        )
        weight = weights[record["task"]]
        total += weight * float(losses.sum())
        count += weight * int((labels[1:] != -100).sum())
    return total / count


@pytest.mark.parametrize("name", ["LlavaForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"])
@pytest.mark.parametrize("way", ["trainer", "model"])
def test_training_on_packed_rows_is_equation_2_of_the_records(name: str, way: str, tmp_path: Path) -> None:
    """With configurations as they are: the nested ones ask for a cache, which no Trainer switches off."""
    model, weights = made(name), {"short": 4.0, "long": 0.25}
    data, collator = records(4), TaskCollator(DataCollatorWithFlattening(), TASKS)
    expected = equation_2(model, data, weights)
    if way == "model":
        cotbal.patch(model, weights=weights, tasks=TASKS, denominator="micro")
        assert float(model(**collator(data)).loss.detach()) == pytest.approx(expected, rel=1e-5)
        cotbal.unpatch()
        return
    trainer = OrderedTrainer(
        model,
        arguments(tmp_path, steps=1, learning_rate=0.0),
        train_dataset=data,
        data_collator=collator,
        weights=weights,
    )
    trainer.train()
    assert float(trainer.losses[0]) == pytest.approx(expected, rel=1e-4)


# PEFT 0.21 uses what transformers 5.23 and 5.24 renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")
def test_prefix_tuning_on_packed_rows_is_refused(tmp_path: Path) -> None:
    """PEFT drops their positions."""
    peft = pytest.importorskip("peft")
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    prefixes = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    trainer = OrderedTrainer(
        peft.get_peft_model(LlamaForCausalLM(config), prefixes),
        arguments(tmp_path, steps=1),
        train_dataset=records(4),
        data_collator=TaskCollator(DataCollatorWithFlattening(), TASKS),
        weights={"short": 4.0, "long": 0.25},
    )
    with pytest.raises(ValueError, match="under prefix tuning no class keeps them apart"):
        trainer.train()
