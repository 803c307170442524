"""The logged loss and the gradients of each optimizer step are Eq. 2's, by a formula of the tests' own."""

from pathlib import Path

import pytest

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

from tests.integrations.llamafactory.runs import WEIGHTS, Case, train
from tests.integrations.llamafactory.steps import Errors, errors

# Training is in float32, the expected in float64: a few units in the last place of such sums.
_BOUND = 1e-6
_FAR = 1e-2
_LORA = {"finetuning_type": "lora", "lora_target": "all"}
_INTERLEAVED = {"mix_strategy": "interleave_over", "interleave_probs": "0.5,0.3,0.2"}
# Without a worker LLaMA-Factory 0.9.5 cuts a file that it streams into no shards at all.
_STREAMING = {"streaming": True, "dataloader_num_workers": 1, "buffer_size": 8}
_WORKERS = {"preprocessing_num_workers": 2, "preprocessing_batch_size": 5, "dataloader_num_workers": 1}
_EVALUATION = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 3}

_PROJECTOR = {"freeze_vision_tower": True, "freeze_multi_modal_projector": False}
# Else nothing of the routers' loss is trained on.
_ROUTED = {"moe_aux_loss_coef": 2.0, "use_reentrant_gc": False}

CASES = (
    Case("concat"),
    Case("LoRA", options=_LORA),
    Case("interleave", options=_INTERLEAVED),
    Case("streaming, interleave", options=_STREAMING | _INTERLEAVED),
    Case("workers, evaluation", options=_WORKERS | _EVALUATION),
    Case("another evaluation set", "llava", options=_EVALUATION | {"val_size": None, "eval_dataset": "vqa"}),
    Case("mask_history, cutoff", options={"mask_history": True, "cutoff_len": 30}),
    Case("logits level", options={"cotbal_level": "logits", "upcast_lmhead_output": True}),
    Case("LLaVA", kind="llava"),
    Case("LLaVA, LoRA", kind="llava", options=_LORA),
    Case("Qwen2-VL", kind="qwen2_vl", options=_PROJECTOR),
    Case("Qwen2-VL, LoRA", kind="qwen2_vl", options=_LORA),
    Case("routed experts", kind="mixtral", options=_ROUTED),
    Case("two ranks", n_ranks=2, options={"ddp_backend": "gloo"}),
    Case("two ranks, LLaVA, LoRA", kind="llava", n_ranks=2, options=_LORA | {"ddp_backend": "gloo"}),
)
CONTROLS = ("concat", "LoRA", "LLaVA", "Qwen2-VL", "two ranks")
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours(world: Path, tmp_path: Path, case: Case) -> None:
    found = _errors(world, tmp_path, case, "ours")
    assert found.loss <= _BOUND
    assert found.gradient <= _BOUND
    assert found.tasks == set(WEIGHTS)
    assert found.n_steps == 4


@pytest.mark.parametrize("name", CONTROLS)
def test_stock_is_far_from_it(world: Path, tmp_path: Path, name: str) -> None:
    (case,) = [each for each in CASES if each.name == name]
    found = _errors(world, tmp_path, case, "stock")
    assert found.loss > _FAR
    assert found.gradient > _FAR


def test_stock_divides_each_micro_batch_by_itself(world: Path, tmp_path: Path) -> None:
    """With a processor it does: not even with all weights 1 is it the mean over the step's tokens."""
    (case,) = [each for each in CASES if each.name == "LLaVA"]
    equal = dict.fromkeys(WEIGHTS, 1.0)
    assert _errors(world, tmp_path / "stock", case, "stock", equal).gradient > _FAR
    one = Case("equal weights", "llava", options={"cotbal_weights": None})
    assert _errors(world, tmp_path / "ours", one, "ours", equal).gradient <= _BOUND


def _errors(
    world: Path, folder: Path, case: Case, mode: str, weights: dict[str, float] | None = None
) -> Errors:
    result = train(case, world, folder, mode)
    assert result.returncode == 0, result.stderr
    return errors(
        world / case.kind,
        folder / "out",
        folder / "steps",
        weights or WEIGHTS,
        case.options.get("moe_aux_loss_coef", 0.0),
    )
