"""Loss and gradients of each optimizer step of ms-swift's own training are Eq. 2 over the whole step."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from tests.integrations.swift.cases import Case, errors, run_cases
from tests.integrations.swift.world import World

pytestmark = pytest.mark.timeout(900)
# Of float32 losses and gradients from float64 ones, relative; 5e-8 and 3e-7 were seen.
BOUND = 1e-6
_FULL = "--tuner_type full"
_TOWER = f"{_FULL} --freeze_vit false --freeze_aligner false"
_LORA = "--tuner_type lora --learning_rate 0.02 --target_modules all-linear"
_PACKED = "--packing true --packing_length 64 --gradient_accumulation_steps 2"
_ROUTED = f"{_FULL} --router_aux_loss_coef 2.0"
_SAVED = f"{_FULL} --save_strategy steps --save_steps 2"
ALONE = (
    Case("full"),
    Case("a short last window", f"{_FULL} --gradient_accumulation_steps 5 --num_train_epochs 2"),
    Case("one record in a row", f"{_FULL} --per_device_train_batch_size 1 --gradient_checkpointing false"),
    Case("LoRA", _LORA),
    Case("all tokens trained on", f"{_FULL} --loss_scale all --group_by_length true"),
    Case("padding_free", f"{_FULL} --padding_free true"),
    Case("packing", f"{_FULL} {_PACKED}"),
    Case("lazy_tokenize", f"{_FULL} --lazy_tokenize true --dataloader_num_workers 1"),
    Case("streaming", f"{_FULL} --streaming true --max_steps 4"),
    Case("swift pt", _FULL, stage="pt"),
    Case("pictures", _TOWER, kind="vision"),
    Case("pictures, LoRA", _LORA, kind="vision"),
    Case("pictures, one record in a row", f"{_TOWER} --per_device_train_batch_size 1", kind="vision"),
    Case("Qwen-VL", _TOWER, kind="qwen_vl"),
    Case("Qwen-VL, LoRA", _LORA, kind="qwen_vl"),
    Case("Qwen-VL, packing", f"{_TOWER} {_PACKED}", kind="qwen_vl"),
    Case("Qwen-VL, padding_free", f"{_TOWER} --padding_free true", kind="qwen_vl"),
    Case("routed experts", f"{_ROUTED} --gradient_checkpointing false", kind="experts"),
    Case("routed experts, none of their loss", _FULL, kind="experts"),
    Case("evaluation", f"{_FULL} --learning_rate 0 --split_dataset_ratio 0.25 --eval_strategy epoch"),
    Case("unbroken", _SAVED),
    Case("resumed", f"{_SAVED} --resume_from_checkpoint {{folder}}/unbroken/checkpoint-2"),
    Case("adapter", "--tuner_type adapter"),
    Case("llamapro", "--tuner_type llamapro --llamapro_num_new_blocks 2"),
)
TWO_RANKS = (
    Case("DDP", f"{_FULL} --gradient_accumulation_steps 2"),
    Case("DDP, a short last window", f"{_FULL} --gradient_accumulation_steps 4"),
    Case("DDP, streaming", f"{_FULL} --streaming true --max_steps 2"),
    Case("DDP, packing", f"{_FULL} --packing true --packing_length 64 --per_device_train_batch_size 1"),
    Case("DDP, pictures", f"{_TOWER} --ddp_find_unused_parameters true", kind="vision"),
    Case("DDP, pictures, LoRA", _LORA, kind="vision"),
    Case("DDP, routed experts", f"{_ROUTED} --ddp_find_unused_parameters true", kind="experts"),
)
UNSEEN = Case("without use_cpu", f"{_FULL} --use_cpu false")
Results = dict[str, list[dict[str, Any]]]


def _stock(case: Case) -> Case:
    return Case(f"stock, {case.name}", case.words, case.kind, None, case.stage)


EVALUATED = next(case for case in ALONE if case.name == "evaluation")
CONTROLS = (ALONE[0], ALONE[3], ALONE[5], ALONE[10], ALONE[13], TWO_RANKS[0], TWO_RANKS[4])


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Results:
    controls = [_stock(case) for case in (*CONTROLS, EVALUATED) if case in ALONE]
    return run_cases(world, tmp_path_factory.mktemp("alone") / "runs", [*ALONE, *controls])


@pytest.fixture(scope="module")
def two_ranks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Results:
    controls = [_stock(case) for case in CONTROLS if case in TWO_RANKS]
    return run_cases(
        world, tmp_path_factory.mktemp("ranks") / "runs", [*TWO_RANKS, UNSEEN, *controls], ranks=2
    )


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_one_process(alone: Results, case: Case) -> None:
    check(alone[case.name])


@pytest.mark.parametrize("case", TWO_RANKS, ids=lambda case: case.name)
def test_two_ranks(two_ranks: Results, case: Case) -> None:
    check(two_ranks[case.name])


def test_ranks_that_accelerate_does_not_know_are_refused(two_ranks: Results) -> None:
    """ms-swift as it is trains each by itself then."""
    for rank in two_ranks[UNSEEN.name]:
        assert "num_processes: expected accelerate to know the 2 processes" in rank["error"]
        assert "use_cpu=True" in rank["error"]


@pytest.mark.parametrize("case", CONTROLS, ids=lambda case: case.name)
def test_ms_swift_as_it_is_is_far_from_it(request: pytest.FixtureRequest, case: Case) -> None:
    results = request.getfixturevalue("alone" if case in ALONE else "two_ranks")
    ranks = results[_stock(case).name]
    assert not ranks[0]["error"], ranks[0]["error"]
    assert all(error > 1e4 * BOUND for error in errors(ranks))


def test_a_resumed_run_goes_on_as_the_unbroken_one(alone: Results) -> None:
    unbroken, resumed = (alone[name][0]["steps"] for name in ("unbroken", "resumed"))
    assert len(unbroken) == 4
    assert [step["losses"] for step in resumed] == [step["losses"] for step in unbroken[2:]]


def test_evaluation_is_ms_swifts_own(alone: Results) -> None:
    """At a learning rate of 0 both evaluate the same model."""
    ours, theirs = (alone[name][0]["evaluated"] for name in (EVALUATED.name, _stock(EVALUATED).name))
    assert ours
    assert ours == theirs


def test_the_linear_level_is_taken(alone: Results) -> None:
    assert {alone[case.name][0]["level"] for case in ALONE} == {"linear"}


def check(ranks: list[dict[str, Any]]) -> None:
    assert not any(rank["error"] for rank in ranks), ranks[0]["error"]
    loss, gradient = errors(ranks)
    assert loss <= BOUND
    assert gradient <= BOUND
    steps = list(zip(*(rank["steps"] for rank in ranks), strict=True))
    # A resumed run has those of the run before it, too.
    for logged, parts in zip(ranks[0]["logged"][-len(steps) :], steps, strict=True):
        expected = sum(part["numerator"] for part in parts) / sum(part["denominator"] for part in parts)
        expected += sum(part["router"] for part in parts) / len(parts)
        assert abs(logged - expected) <= BOUND * expected


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_a_routers_loss_with_activations_computed_again(
    is_reentrant: bool, world: World, tmp_path: Path
) -> None:
    """In a process of its own: ms-swift keeps the way of the first run. Its default would train nothing."""
    again = "" if is_reentrant else ' --gradient_checkpointing_kwargs {{"use_reentrant":false}}'
    case = Case("again", _ROUTED + again, kind="experts")
    ranks = run_cases(world, tmp_path / "runs", [case])[case.name]
    if is_reentrant:
        assert "expected its routers' loss to lead to a parameter that is trained" in ranks[0]["error"]
    else:
        check(ranks)


def test_a_plugin_of_ones_own(world: World, tmp_path: Path) -> None:
    """Weights, a rule whose tasks are those of the data, and the task of each file."""
    head = "from cotbal.balancing import TLA\nfrom cotbal.integrations.swift import balance\n"
    calls = {
        "weights": "{'chat': 1.0, 'vqa': 0.4, 'caption': 1.9}, level='logits'",
        "rule": "TLA()",
        "files": "tasks={'vqa.jsonl': 'vqa', 'caption.jsonl': 'caption', 'chat_text.jsonl': 'none of these'}",
    }
    plugins = {name: tmp_path / f"{name}.py" for name in calls}
    for name, call in calls.items():
        plugins[name].write_text(f"{head}balance({call})\n")
    for task in ("vqa", "caption"):
        records = [json.loads(line) for line in world.data(task).read_text().splitlines()]
        untold = [json.dumps({"messages": record["messages"]}) for record in records]
        (tmp_path / f"{task}.jsonl").write_text("\n".join(untold))
    data = (tmp_path / "vqa.jsonl", tmp_path / "caption.jsonl", world.data("chat"))
    streaming = f"{_FULL} --streaming true --max_steps 3"
    cases = [
        Case("weights", plugin=plugins["weights"]),
        Case("rule", plugin=plugins["rule"]),
        Case("files", plugin=plugins["files"], data=data),
        Case("files, streaming", streaming, plugin=plugins["files"], data=data),
    ]
    results = run_cases(world, tmp_path / "runs", cases)
    for name in ("weights", "files", "files, streaming"):
        check(results[name])
    assert results["weights"][0]["level"] == "logits"
    assert not results["rule"][0]["error"], results["rule"][0]["error"]
    assert results["rule"][0]["tasks"] == ("caption", "chat", "vqa")
