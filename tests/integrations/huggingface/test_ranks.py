"""Two processes under DDP: their parameters are those of one process that has all the records."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from packaging.version import Version
from torch import Tensor
from transformers import Trainer

from cotbal.balancing import DWA
from cotbal.integrations.huggingface import TaskCollator
from tests.integrations.huggingface.level_cases import FROM_5
from tests.integrations.huggingface.routed import by_hand, cut, routed
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    OrderedTrainer,
    Record,
    Stream,
    arguments,
    collator,
    deviation,
    expected,
    ignored,
    pad,
    parameters,
    records,
    tiny_model,
)
from tests.ranks import TRAINER, Ranks

BOUND = 1e-5


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"), TRAINER)
    yield ranks
    ranks.stop()


class Shards:
    """Each rank's half of the positions, with labels shifted before the cut."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, features: Sequence[Record]) -> dict[str, Tensor]:
        batch = pad(features)
        batch["shift_labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
        half = batch["labels"].shape[1] // 2
        return {
            key: value[:, :half] if self.rank == 0 else value[:, half:]
            for key, value in batch.items()
            if key not in ("attention_mask", "labels")
        }


def _as_rank(rank: int) -> None:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({key: str(value) for key, value in told.items()})


def _train(rank: int, folder: Path, data: list[Record], options: dict[str, Any]) -> dict[str, Any]:
    _as_rank(rank)
    options = dict(options)
    n_layers, weights = options.pop("n_layers", 2), options.pop("weights", WEIGHTS)
    make_batch = TaskCollator(Shards(rank), TASKS) if options.pop("shards", False) else collator()
    dataset = Stream(data) if options.pop("stream", False) else data
    resume, evaluated = options.pop("resume", False), options.pop("evaluated", None)
    has_experts = options.pop("has_experts", False)
    trainer = OrderedTrainer(
        routed("Qwen3Moe") if has_experts else tiny_model(n_layers),
        arguments(folder, **{"ddp_backend": "gloo"} | options),
        train_dataset=dataset,
        eval_dataset=None if evaluated is None else Stream(evaluated),
        data_collator=make_batch,
        weights=weights,
    )
    done = trainer.train(resume_from_checkpoint=resume)
    trainer.flush()
    return {
        "train_loss": done.training_loss,
        "parameters": parameters(trainer.model),
        "losses": [loss.item() for loss in trainer.losses],
        "logged": [entry for entry in trainer.state.log_history if "task_tokens/short" in entry],
        "state": trainer.weighting.state_dict(),
        "eval_losses": [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry],
        "world": trainer.accelerator.num_processes,
    }


def _train_unknown(rank: int, folder: Path, data: list[Record]) -> dict[str, Any]:
    """Without `use_cpu` or a backend accelerate looks for the others on GPUs alone."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return _train(rank, folder, data, {"use_cpu": False, "ddp_backend": None})
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def run(two: Ranks, folder: Path, data: list[Record], **options: Any) -> list[dict[str, Any]]:
    outcomes = two.run(_train, [0, 1], [folder] * 2, [data] * 2, [options] * 2)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    assert [outcome["world"] for outcome in outcomes] == [2, 2]
    return outcomes


@pytest.mark.skipif(not FROM_5, reason="the class was run on transformers 5 alone")
def test_a_routers_loss_is_the_mean_over_all_ranks(two: Ranks, tmp_path: Path) -> None:
    data = records(16)
    options = {"batch": 2, "accumulation": 2, "steps": 2, "ddp_find_unused_parameters": True}
    outcomes = run(two, tmp_path, data, has_experts=True, **options)
    reference = by_hand(routed("Qwen3Moe"), cut(data, 2, 4))[0]
    for outcome in outcomes:
        assert deviation(outcome["parameters"], reference, parameters(routed("Qwen3Moe"))) <= BOUND


def check(outcomes: list[dict[str, Any]], windows: list[list[Record]], n_layers: int = 2) -> None:
    model = tiny_model(n_layers)
    start = parameters(model)
    reference, losses = expected(model, windows, WEIGHTS)
    for outcome in outcomes:
        assert deviation(outcome["parameters"], reference, start) <= BOUND
    micro = len(outcomes[0]["losses"]) // len(windows)
    means = torch.tensor([outcome["losses"] for outcome in outcomes]).mean(0).reshape(-1, micro).sum(1)
    assert means.tolist() == pytest.approx(losses, rel=2e-6)


def by(data: list[Record], size: int, steps: int) -> list[list[Record]]:
    epoch = [data[start : start + size] for start in range(0, len(data), size)]
    return [epoch[step % len(epoch)] for step in range(steps)]


def test_two_ranks_are_one_of_twice_the_batch(two: Ranks, tmp_path: Path) -> None:
    data = records(24)
    outcomes = run(two, tmp_path, data, batch=2, accumulation=2)
    check(outcomes, by(data, 8, 5))
    # The ranks' parts differ, so that a mean over the ranks would not do.
    first, second = (outcome["losses"][0] for outcome in outcomes)
    assert abs(first / second - 1) > 0.2


@pytest.mark.skipif(not hasattr(Trainer, "_finalize_training"), reason="an older Trainer ends by itself")
def test_the_loss_at_the_end_is_that_of_all_ranks(two: Ranks, tmp_path: Path) -> None:
    """Steps since the last logging were those of rank 0 alone in it."""
    data = records(24)
    outcomes = run(two, tmp_path, data, batch=2, accumulation=2, logging_steps=3)
    _, losses = expected(tiny_model(), by(data, 8, 5), WEIGHTS)
    for outcome in outcomes:
        assert outcome["train_loss"] == pytest.approx(sum(losses) / 5, rel=2e-6)


def test_a_batch_that_each_rank_gets_a_part_of(two: Ranks, tmp_path: Path) -> None:
    data = records(24)
    outcomes = run(two, tmp_path, data, batch=4, accumulation=2, accelerator_config={"split_batches": True})
    check(outcomes, by(data, 8, 5))


def test_ranks_that_make_unequal_steps_are_an_error_and_no_wait(two: Ranks, tmp_path: Path) -> None:
    """9 micro-batches are 5 and 4 with even_batches=False: 3 steps of 2, and 2."""
    options = {"batch": 2, "accumulation": 2, "accelerator_config": {"even_batches": False}}
    with pytest.raises(ValueError, match=r"optimizer steps in an epoch on every rank, got \[3, 2\]; leave"):
        run(two, tmp_path, records(18), **options)
    # 7 are 4 and 3, and 2 steps for both.
    data = records(14)
    outcomes = run(two, tmp_path, data, steps=2, **options)
    model = tiny_model()
    start = parameters(model)
    reference, _ = expected(model, by(data, 8, 2), WEIGHTS)
    assert all(deviation(outcome["parameters"], reference, start) <= BOUND for outcome in outcomes)


def test_ranks_that_accelerate_does_not_know_are_an_error(two: Ranks, tmp_path: Path) -> None:
    for outcome in two.run(_train_unknown, [0, 1], [tmp_path] * 2, [records(8)] * 2):
        assert isinstance(outcome, ValueError)
        assert "expected accelerate to know the 2 processes of the group, got 1: " in str(outcome)


def test_an_epoch_that_does_not_divide_and_a_resume_before_its_end(two: Ranks, tmp_path: Path) -> None:
    """11 records are 3 micro-batches of 2 for each rank: the last is filled up with the first record."""
    data = records(11)
    options = {"batch": 2, "accumulation": 2, "save_strategy": "steps", "save_steps": 1}
    run(two, tmp_path, data, steps=1, **options)
    outcomes = run(two, tmp_path, data, steps=4, resume=True, **options)
    model = tiny_model()
    start = parameters(model)
    reference, _ = expected(model, 2 * [data[:8], [*data[8:], data[0]]], WEIGHTS)
    for outcome in outcomes:
        assert deviation(outcome["parameters"], reference, start) <= BOUND


def test_a_rank_with_nothing_to_train_on(two: Ranks, tmp_path: Path) -> None:
    data = records(24)
    # Batches of 4 go to the ranks in turn: the second rank has nothing in the first step.
    data[4:8] = map(ignored, data[4:8])
    outcomes = run(two, tmp_path, data, batch=4)
    assert outcomes[1]["losses"][0] == 0
    check(outcomes, by(data, 8, 5))


def test_two_shards_of_the_sequences(two: Ranks, tmp_path: Path) -> None:
    """Without layers a token sees itself alone, so that shards need no attention across them."""
    data = records(24)
    # Both ranks get the same records, and each its half of the positions.
    twice = [record for start in range(0, 24, 4) for record in 2 * data[start : start + 4]]
    outcomes = run(two, tmp_path, twice, batch=4, accumulation=2, shards=True, n_layers=0)
    check(outcomes, by(data, 8, 5), n_layers=0)


@pytest.mark.parametrize("options", [{"stream": True}, {"accelerator_config": {"dispatch_batches": True}}])
def test_batches_that_the_main_process_cuts_up(two: Ranks, tmp_path: Path, options: dict[str, Any]) -> None:
    """It joins the ranks' batches and cuts them up, so these are of one length here."""
    data = [record for record in records(72) if len(record["input_ids"]) == 7]
    data += [record for record in records(72, seed=2) if len(record["input_ids"]) == 16]
    data = (data * 5)[: len(data) // 4 * 4]
    longest = max(len(record["input_ids"]) for record in data)
    data = [
        record | {key: record[key] + [fill] * (longest - len(record[key])) for key, fill in FILLS.items()}
        for record in data
    ]
    outcomes = run(two, tmp_path, data, batch=2, steps=3, **options)
    check(outcomes, by(data, 4, 3))


FILLS = {"input_ids": 0, "labels": -100}


def test_a_stream_is_evaluated_on(two: Ranks, tmp_path: Path) -> None:
    data = records(24)
    evaluated = [record for record in records(72) if len(record["input_ids"]) == 7][:4]
    options = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 1}
    outcomes = run(two, tmp_path, data, batch=2, accumulation=2, evaluated=evaluated, **options)
    check(outcomes, by(data, 8, 5))
    losses = outcomes[0]["eval_losses"]
    assert len(set(losses)) == 5
    assert losses == outcomes[1]["eval_losses"]


def test_sums_are_those_of_all_ranks_and_go_on_after_a_resume(two: Ranks, tmp_path: Path) -> None:
    data = records(24)
    rule = {"batch": 2, "accumulation": 2, "save_strategy": "steps", "save_steps": 2}
    whole = run(two, tmp_path / "whole", data, weights=DWA(window=1), steps=4, **rule)
    run(two, tmp_path / "parts", data, weights=DWA(window=1), steps=2, **rule)
    resumed = run(two, tmp_path / "parts", data, weights=DWA(window=1), steps=4, resume=True, **rule)
    counts = [
        sum(x != -100 for x in record["labels"][1:]) for record in data[:8] if record["task"] == "short"
    ]
    for outcome in whole:
        assert outcome["logged"][0]["task_tokens/short"] == sum(counts)
        assert outcome["state"] == whole[0]["state"]
    for before, after in zip(whole, resumed, strict=True):
        assert after["state"] == before["state"]
        assert after["logged"] == before["logged"]
        assert torch.equal(after["parameters"], before["parameters"])
    weights = {entry["task_weight/short"] for entry in whole[0]["logged"]}
    assert len(weights) == 3, "1 in the first two steps, then another one in each"


def _train_in_parallel(rank: int, folder: Path, data: list[Record]) -> dict[str, Any]:
    """Both ranks hold parts of each layer and see the same records."""
    _as_rank(rank)
    args = arguments(folder, 4, 2, ddp_backend="gloo")
    from transformers.distributed import DistributedConfig

    state = PartialState._shared_state
    assert args.world_size == 2
    # accelerate lets tensor parallelism run on GPUs alone; nothing of it needs one.
    kind, state["distributed_type"] = state["distributed_type"], DistributedType.MULTI_GPU
    try:
        if rank == 0:
            tiny_model().save_pretrained(folder / "model")
        torch.distributed.barrier()
        model = type(tiny_model()).from_pretrained(
            folder / "model", distributed_config=DistributedConfig(tp_size=2)
        )
        trainer = OrderedTrainer(model, args, train_dataset=data, data_collator=collator(), weights=WEIGHTS)
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "task_tokens/short" in entry]
        whole = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in model.parameters()]
        flat = torch.cat([each.detach().flatten().double() for each in whole])
        losses = [loss.item() for loss in trainer.losses]
        return {"parameters": flat, "losses": losses, "logged": logged, "level": trainer.installed.level}
    finally:
        state["distributed_type"] = kind
        AcceleratorState._reset_state()


def test_tensor_parallel_ranks_count_once(two: Ranks, tmp_path: Path) -> None:
    if Version(transformers.__version__) < Version("5"):
        pytest.skip("models sharded at load time: transformers 5")
    data = records(24)
    outcomes = two.run(_train_in_parallel, [0, 1], [tmp_path] * 2, [data] * 2)
    check(outcomes, by(data, 8, 5))
    counts = [
        sum(x != -100 for x in record["labels"][1:]) for record in data[:8] if record["task"] == "short"
    ]
    for outcome in outcomes:
        assert outcome["logged"][0]["task_tokens/short"] == sum(counts)
        assert outcome["level"] == "logits"


def test_a_denominator_of_each_device_is_refused(two: Ranks, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="average_tokens_across_devices: expected True with 2 processes"):
        run(two, tmp_path, records(8), average_tokens_across_devices=False)
