"""A checkpoint is loaded whole, also where transformers saved it under other names than the parameters'."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, Trainer

from cotbal.integrations.huggingface.restored import not_loaded, restore
from tests.integrations.huggingface.training import (
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    pad,
    parameters,
    records,
    tiny_model,
)

SAVED = {"save_strategy": "steps", "save_steps": 2}


def tiny_llava() -> LlavaForConditionalGeneration:
    """Of the class alone: its records have no pictures."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **vision},
        text_config=tiny_model(n_layers=1).config,
        image_token_index=47,
    )
    return LlavaForConditionalGeneration(config)


def extended_llava() -> LlavaForConditionalGeneration:
    """With parts of one's own, which are saved under their names and which the class does not have."""
    model = tiny_llava()
    model.more = nn.Linear(3, 2)
    model.register_buffer("numbers", torch.rand(3))
    return model


def trainer(folder: Path, steps: int, model: Any = None, **options: Any) -> OrderedTrainer:
    args = arguments(folder, 4, 1, steps, **(SAVED | options))
    data = {"train_dataset": records(16), "eval_dataset": records(4)}
    return OrderedTrainer(model or tiny_llava(), args, **data, data_collator=collator(), weights=WEIGHTS)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["one file", "shards"])
def test_a_llava_goes_on_from_its_checkpoint(tmp_path: Path, shards: dict[str, str]) -> None:
    unbroken = trainer(tmp_path / "unbroken", 4)
    unbroken.train()
    broken = trainer(tmp_path / "broken", 2)
    broken.train()
    folder = tmp_path / "broken" / "checkpoint-2"
    if shards:
        (folder / "model.safetensors").unlink()
        broken.model.save_pretrained(folder, **shards)
        assert (folder / "model.safetensors.index.json").exists()
    resumed = trainer(tmp_path / "broken", 4)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(parameters(resumed.model), parameters(unbroken.model))
    # What this is about: the trainer itself leaves the model as it was.
    stock = Trainer(tiny_llava(), arguments(tmp_path / "stock", 4, 1, 4), data_collator=pad)
    stock._load_from_checkpoint(str(folder))
    assert torch.equal(parameters(stock.model), parameters(tiny_llava()))


def test_the_best_model_is_the_best(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    run = trainer(tmp_path, 3, metric_for_best_model="loss", greater_is_better=True, **options)
    run.train()
    # The loss falls: by this metric the first one is the best.
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    first = LlavaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-1")
    assert torch.equal(parameters(run.model), parameters(first))


def test_parts_of_ones_own_come_back_with_the_others(tmp_path: Path) -> None:
    unbroken = trainer(tmp_path, 4, extended_llava())
    unbroken.train()
    other = extended_llava()
    with torch.no_grad():
        other.more.weight.zero_()
        other.numbers.zero_()
    resumed = trainer(tmp_path, 4, other)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_best_model_has_parts_of_its_own(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    by_loss = {"metric_for_best_model": "loss", "greater_is_better": True}
    run = trainer(tmp_path, 3, extended_llava(), **by_loss, **options)
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    first = LlavaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-1").state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, first.get(name, value)), name


def test_a_part_of_ones_own_that_the_checkpoint_lacks_is_told(tmp_path: Path) -> None:
    trainer(tmp_path, 2).train()
    resumed = trainer(tmp_path, 4, extended_llava())
    with pytest.raises(ValueError, match=r"of all parameters of Llava.*, got none for 3, numbers, more"):
        resumed.train(resume_from_checkpoint=True)


def test_a_part_of_ones_own_may_be_tied_to_another(tmp_path: Path) -> None:
    model = tiny_llava()
    model.save_pretrained(tmp_path)
    other = tiny_llava()
    other.more = nn.Linear(32, 48, bias=False)
    with torch.no_grad():
        other.get_output_embeddings().weight.zero_()
    other.more.weight = other.get_output_embeddings().weight
    restore(other, str(tmp_path))
    assert torch.equal(other.more.weight, model.get_output_embeddings().weight)


def test_tied_weights_are_loaded_under_one_name() -> None:
    model = tiny_model()
    assert not_loaded(model, ["lm_head.weight"]) == ("lm_head.weight",)
    model.lm_head.weight = model.model.embed_tokens.weight
    assert not_loaded(model, ["lm_head.weight"]) == ()


def test_what_a_class_does_not_save_is_not_missed() -> None:
    model = tiny_model()
    model._keys_to_ignore_on_save = ["model.norm.weight"]
    assert not_loaded(model, ["model.norm.weight", "lm_head.weight"]) == ("lm_head.weight",)


def test_a_parameter_keeps_its_bits(tmp_path: Path) -> None:
    """Also where others of the model are of another dtype."""
    model = tiny_model().to(torch.bfloat16)
    model.model.norm.weight.data = torch.rand(32)
    model.save_pretrained(tmp_path)
    other = tiny_model(seed=1).to(torch.bfloat16)
    other.model.norm.weight.data = torch.zeros(32)
    restore(other, str(tmp_path))
    for (name, saved), got in zip(model.named_parameters(), other.parameters(), strict=True):
        assert got.dtype == saved.dtype, name
        assert torch.equal(got, saved), name


def test_float64_keeps_its_bits(tmp_path: Path) -> None:
    model = tiny_model().double()
    with torch.no_grad():
        model.lm_head.weight.add_(1e-12)
    model.save_pretrained(tmp_path)
    other = tiny_model(seed=1).double()
    restore(other, str(tmp_path))
    assert torch.equal(parameters(other), parameters(model))


def test_the_trainer_tells_what_is_not_missed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Trainer, "_issue_warnings_after_load", lambda self, result: told.append(result))
    run, whole = trainer(tmp_path, 1), SimpleNamespace(missing_keys=[], unexpected_keys=["more"])
    run._issue_warnings_after_load(whole)
    run._issue_warnings_after_load(SimpleNamespace(missing_keys=["lm_head.weight"], unexpected_keys=[]))
    assert told == [whole]


def test_what_is_not_there_under_any_name_is_told(tmp_path: Path) -> None:
    tiny_model(n_layers=1).save_pretrained(tmp_path)
    before = tiny_model()
    with pytest.raises(
        ValueError, match=r"the weights of all parameters of LlamaForCausalLM, got none for 9, model"
    ):
        restore(before, str(tmp_path))
    assert torch.equal(parameters(before), parameters(tiny_model()))
    with pytest.raises(ValueError, match="only a class of transformers could translate"):
        restore(nn.Linear(1, 1), str(tmp_path))
