import gc
import json
from collections import UserDict
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel, CohereConfig, CohereForCausalLM

from cotbal.doctor import (
    compare,
    devices,
    load_batch,
    load_model,
    packages,
    random_batch,
    save_batch,
    versions,
)
from cotbal.doctor.batches import check_batch
from cotbal.doctor.compare import _on
from cotbal.doctor.engine import compare_under_deepspeed
from cotbal.doctor.measure import MIB, peak_mib
from cotbal.doctor.runners import Plain
from cotbal.integrations.huggingface import TaskCollator, levels
from cotbal.integrations.huggingface.loss_position import LogitShape
from tests.generators import of_gpus, seeds
from tests.integrations.huggingface.level_cases import FROM_5, Size, build
from tests.integrations.huggingface.routed import COEFFICIENT, routed

ZERO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
}


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_both_levels_agree_with_the_models_own_loss(level: str) -> None:
    model = load_model()
    found = compare(model, random_batch(model), level)
    assert found.agrees
    assert found.level == level
    own, ones, by_hand, weighted = found.passes
    assert own.loss == pytest.approx(ones.loss, rel=1e-6)
    assert by_hand.loss == pytest.approx(weighted.loss, rel=1e-6)
    # Weights that move nothing would compare nothing.
    assert abs(weighted.gradient_norm / ones.gradient_norm - 1) > 0.05
    assert all(each.milliseconds > 0 and each.peak_mib > 0.5 for each in found.passes)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.skipif(not FROM_5, reason="the class was run on transformers 5 alone")
@pytest.mark.parametrize("level", ["linear", "logits"])
def test_a_routers_loss_is_in_both(level: str) -> None:
    """As the class adds it, and by hand."""
    model = routed("Qwen3Moe").train()
    batch = {"input_ids": torch.randint(3, 40, (2, 9)), "labels": torch.randint(3, 40, (2, 9))}
    found = compare(model, batch, level)
    assert found.agrees
    without = compare(routed("Qwen3Moe", adds=False).train(), batch, level)
    assert without.agrees
    pairs = zip(found.passes, without.passes, strict=True)
    assert all(one.loss > other.loss + COEFFICIENT for one, other in pairs)


def test_a_batch_of_one_row_is_weighted_too() -> None:
    model = load_model()
    found = compare(model, {key: value[:1] for key, value in random_batch(model).items()})
    assert found.agrees
    _, ones, _, weighted = found.passes
    assert abs(weighted.gradient_norm / ones.gradient_norm - 1) > 0.05


def test_the_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    state, seeds = torch.get_rng_state(), []
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "manual_seed_all", seeds.append)
        model = load_model()
        assert not seeds, "the generators of GPUs were seeded"
    compare(model, random_batch(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_generators_of_all_gpus_of_the_model_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with a layer on cuda:1: cuda:0, on which it has nothing, is not seeded at all."""
    generators, during = of_gpus(monkeypatch), []
    before = [each.get_state() for each in generators]

    class Seen(Plain):
        def backward(self, loss: torch.Tensor) -> None:
            during.append(seeds())
            super().backward(loss)

    model = load_model()
    with FakeTensorMode():
        model.register_buffer("elsewhere", torch.ones(1, device="cuda:1"))
    compare(model, random_batch(model), runner=Seen(model))
    assert during == [[7, 0, 9]] * len(during) != []
    assert all(torch.equal(one.get_state(), state) for one, state in zip(generators, before, strict=True))


def test_a_batch_with_nothing_to_train_on_is_refused() -> None:
    model = load_model()
    batch = random_batch(model)
    batch["labels"][:, 1:] = -100
    with pytest.raises(ValueError, match="batch: expected labels to train on"):
        compare(model, batch)


def test_the_linear_level_needs_less_memory() -> None:
    model = load_model()
    own, ones, *_ = compare(model, random_batch(model), "linear").passes
    assert ones.peak_mib < 0.8 * own.peak_mib


def test_what_an_earlier_step_left_is_not_taken_off_a_peak() -> None:
    """In a cycle, which is freed whenever the collector comes by."""

    def leaves() -> None:
        cycle: list[Any] = [torch.ones(2 * MIB // 4)]
        cycle.append(cycle)

    def step() -> None:
        gc.collect()
        torch.ones(4 * MIB // 4)

    cpu = torch.device("cpu")
    assert [peak_mib(each, cpu) for each in (leaves, step)] == [2.0, 4.0]


def test_a_wrong_loss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale of the logits left out, as if the check at install time had passed it."""
    monkeypatch.setattr(levels, "accepted_shape", lambda _: LogitShape())
    model, batch = build("CohereForCausalLM")
    found = compare(model, batch)
    assert not found.agrees
    assert found.passes[1].gradient_error > 0.1


def test_a_loss_that_is_not_a_number_is_seen() -> None:
    model = load_model()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    assert not compare(model, random_batch(model), "logits").agrees


@pytest.mark.parametrize("name", ["LlavaForConditionalGeneration", "Gemma3ForConditionalGeneration"])
def test_a_batch_of_ones_own(name: str, tmp_path: Path) -> None:
    model, batch = build(name)
    save_file(batch | {"cotbal_task_ids": torch.tensor([1, 0])}, tmp_path / "batch.safetensors")
    assert compare(model, load_batch(tmp_path / "batch.safetensors")).agrees
    random = random_batch(model)
    assert not (random["input_ids"] == Size().image).any()
    assert compare(model, random).agrees


def test_a_batch_of_a_task_collator_is_saved(tmp_path: Path) -> None:
    """It has a number in it, and a collator's tensors may be views, in a mapping that is no dict."""
    model = load_model()
    batch = random_batch(model)
    ids = batch["input_ids"].T.contiguous().T
    made = TaskCollator(lambda _: UserDict(batch | {"input_ids": ids, "labels": ids}), ["a", "b"])
    found = made([{"task": "a"}, {"task": "b"}])
    assert isinstance(found["cotbal_valid_count"], int)
    read = load_batch(save_batch(found, tmp_path / "batch.safetensors"))
    assert read.keys() == batch.keys() | {"cotbal_task_ids"}
    assert torch.equal(read["labels"], ids)
    assert compare(model, read).agrees


def test_what_is_no_tensor_goes_to_the_model_as_it_is() -> None:
    model = load_model()
    batch = random_batch(model)
    found = compare(model, batch | {"position_ids": None, "use_cache": False, "cotbal_valid_count": 9})
    assert found.agrees
    assert found.passes[0].loss == compare(model, batch).passes[0].loss
    image = torch.ones(2)
    name, (first, second) = _on(torch.device("meta"), ["name", (image, image)])
    assert (name, first.device.type, second.device.type) == ("name", "meta", "meta")
    for labels, got in ((None, "none"), ([[3, 4]], "a list")):
        with pytest.raises(TypeError, match=f"^batch: expected a tensor of int64 as labels, got {got}; pass"):
            compare(model, batch | {"labels": labels})


def test_a_batch_without_labels_is_refused(tmp_path: Path) -> None:
    save_file({"input_ids": torch.ones(2, 3)}, tmp_path / "batch.safetensors")
    with pytest.raises(ValueError, match=r"got input_ids; write it with cotbal\.doctor\.save_batch\(coll"):
        load_batch(tmp_path / "batch.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": torch.full((2, 9), 3, dtype=torch.int32)},
            "labels of int64, got torch.int32; use labels.lo",
        ),
        ({"labels": torch.full((9,), 3)}, r"labels \(B, S\), got the shape \(9,\); save what the collator"),
        (
            {"labels": torch.full((2, 5), 3)},
            r"labels of the shape of input_ids, \(2, 9\), got \(2, 5\); pad both alike, labels wi",
        ),
        ({"labels": torch.full((2, 9), 512)}, r"labels in 0\.\.511, .* got 512; is it the tokenizer"),
        ({"labels": torch.full((2, 9), -1)}, r"labels in 0\.\.511, .* got -1; .*a padded label is -100"),
        ({"input_ids": torch.full((2, 9), 512)}, r"input_ids in 0\.\.511, .* got 512; is it the tokenizer"),
    ],
    ids=["dtype", "one row", "shorter", "beyond", "padded with -1", "tokens"],
)
def test_a_batch_that_does_not_fit_is_refused(changes: dict[str, torch.Tensor], message: str) -> None:
    batch = {"input_ids": torch.full((2, 9), 3), "labels": torch.full((2, 9), 3)}
    with pytest.raises((TypeError, ValueError), match=f"^batch: expected {message}"):
        compare(load_model(), batch | changes)


def test_an_image_token_may_lie_beyond_the_vocabulary() -> None:
    model = load_model()
    model.config.image_token_id = 600
    check_batch(model, {"input_ids": torch.full((2, 9), 600), "labels": torch.full((2, 9), 3)})


def test_a_batch_that_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    torch.save({"labels": torch.ones(2, 3)}, tmp_path / "batch.pt")
    with pytest.raises(ValueError, match=r"batch\.pt: expected a whole safetensors file, .*; write it with"):
        load_batch(tmp_path / "batch.pt")


def test_bfloat16() -> None:
    model = load_model().bfloat16()
    found = compare(model, random_batch(model))
    assert found.agrees
    assert found.tolerance == 2e-2


def test_logits_that_bfloat16_rounds_off_are_the_models_own_error() -> None:
    """As of a trained model: its logits are large, and a part in 256 of them is a probability's percents."""
    model = load_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    model.bfloat16()
    batch = random_batch(model)
    found = compare(model, batch)
    assert found.agrees
    own, ours, by_hand, weighted = (each.gradient_error for each in found.passes)
    assert ours < own
    assert weighted < by_hand
    assert own > found.tolerance
    # Nothing is left in the head.
    assert "forward" not in model.lm_head.__dict__
    assert model(input_ids=batch["input_ids"]).logits.dtype == torch.bfloat16


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = CohereConfig(**Size().language(num_hidden_layers=3), tie_word_embeddings=False)
    CohereForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# PEFT 0.21 reads what transformers 5.23 renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_models_from_a_folder_a_configuration_and_an_adapter(saved: Path, tmp_path: Path) -> None:
    whole = load_model(saved)
    assert isinstance(whole, CohereForCausalLM)
    assert whole.training
    assert whole.config.num_hidden_layers == 3
    random = load_model(saved / "config.json")
    assert random.config.num_hidden_layers == 2
    adapted = peft.get_peft_model(whole, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"]))
    adapted.peft_config["default"].base_model_name_or_path = str(saved)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    found = compare(load_model(tmp_path / "adapter"), random_batch(whole))
    assert found.agrees
    assert found.level == "logits"
    assert "modules_to_save" in found.reason


def test_weights_of_an_older_file_are_read(saved: Path) -> None:
    whole = load_model(saved)
    (saved / "model.safetensors").unlink()
    torch.save(whole.state_dict(), saved / "pytorch_model.bin")
    found = load_model(saved)
    assert torch.equal(found.lm_head.weight, whole.lm_head.weight)


def test_models_that_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="model: expected a language model, got CLIPVisionModel, which has no"
    ):
        random_batch(
            CLIPVisionModel(CLIPVisionConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1))
        )
    with pytest.raises(FileNotFoundError, match="is not downloaded"):
        load_model("llava-hf/llava-1.5-7b-hf")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llava_llama"}))
    with pytest.raises(ValueError, match=r"model type 'llava_llama'.*cotbal\.patch"):
        load_model(file)
    file.write_text(json.dumps({"model_type": "llama", "architectures": ["MyLlama"]}))
    with pytest.raises(ValueError, match=r"in config\.json, got 'MyLlama'; put its name there, as \"archit"):
        load_model(file)


def test_a_file_that_is_no_json_object_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text, got in (("{", "Expecting .*"), ("[]", "list")):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json: .* a model's config.* got {got}; save it anew"):
            load_model(file)
        with pytest.raises(ValueError, match=rf"config\.json: .* DeepSpeed's config.* got {got}; pass the"):
            compare_under_deepspeed(file)


def installed(monkeypatch: pytest.MonkeyPatch, **found: str) -> dict[str, Any]:
    """What `packages` says of an environment with these versions and no others."""
    by_name = {name.replace("_", "-"): version for name, version in found.items()}
    monkeypatch.setattr(versions, "_version", by_name.get)
    return {each.name: each for each in packages()}


def test_versions_of_this_environment() -> None:
    found = {each.name: each for each in packages()}
    # A CUDA build of the index names CUDA in the second alone.
    assert torch.__version__.startswith(str(found["torch"].installed))
    assert not any(each.problem for each in found.values())
    assert all(devices())


def test_what_is_too_old_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(monkeypatch, torch="2.10.0", transformers="4.51.3", peft="0.9")
    assert not found["torch"].problem
    assert 'pip install --upgrade "transformers>=4.52"' in found["transformers"].problem
    assert found["peft"].problem
    assert found["accelerate"].installed is None
    assert not found["accelerate"].problem
    assert "llava" not in found


def test_llavas_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed(monkeypatch, torch="2.1.2", transformers="4.37.2", llava="1.2.2.post1")
    assert "upgrade torch first, reinstall flash-attn" in found["llava"].problem
    assert found["torch"].problem
    # As its README has them.
    old = {"transformers": "4.37.2", "accelerate": "0.27.2", "peft": "0.7.1"}
    found = installed(monkeypatch, torch="2.13.0", **old, llava_torch="1.2.2.post1")
    assert not any(each.problem for each in found.values())
    assert installed(monkeypatch, torch="2.13.0", **old)["accelerate"].problem
    found = installed(monkeypatch, torch="2.13.0", transformers="5.1", llava="1.2.2.post1")
    assert "needs transformers 4.37.2" in found["llava"].problem


def test_the_least_versions_are_those_of_the_package() -> None:
    lines = ["torch>=2.4", 'transformers>=4.52; extra == "hf"', 'transformers>=5; extra == "demo"', "x[y]"]
    assert versions.least_versions(lines) == {"torch": "2.4", "transformers": "4.52"}


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.full), 3])
def test_under_deepspeeds_engine(stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    # Every parameter is split, be it as small as here.
    split = (
        {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": "auto"} if stage == 3 else {}
    )
    config = tmp_path / "zero.json"
    config.write_text(json.dumps(ZERO | {"zero_optimization": {"stage": stage, **split}}))
    found = compare_under_deepspeed(config)
    assert found.agrees
    assert found.level == "linear"
    assert torch.cuda.is_available() or not (tmp_path / "compiled").exists()
    model = load_model()
    plain = compare(model, random_batch(model))
    for under_engine, alone in zip(found.passes, plain.passes, strict=True):
        assert under_engine.loss == pytest.approx(alone.loss, rel=1e-5)
        assert under_engine.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-5)


@pytest.mark.full
def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "zero.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 7}}))
    with pytest.raises(ValueError, match="the check under DeepSpeed failed"):
        compare_under_deepspeed(config)
