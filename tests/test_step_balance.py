"""A training of several steps: each step's weights, denominator and sums are those of its own tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cotbal.balancing import DWA, TLA, StaticWeights, Weighting
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from cotbal.weights import TaskWeights
from tests.examples import check_examples
from tests.ranks import Ranks
from tests.tolerances import RELATIVE, assert_close

TASKS = ("a", "b", "c")
WEIGHTS = {"a": 0.25, "b": 4.0, "c": 1.0}
Batch = tuple[Tensor, Tensor, Tensor]


def batch(seed: int, n: int = 4) -> Batch:
    """Logits in float64, labels and one id per sample; task c is in every other batch only."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 6, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (n, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.4] = -100
    labels[:, -1] = 3
    return logits, labels, torch.randint(0, 3 if seed % 2 else 2, (n,), generator=generator)


def eq2(batches: list[Batch], weights: dict[str, float]) -> tuple[float, float]:
    """The loss of Eq. 2 over the batches, and its denominator; a token at a time."""
    mass = total = 0.0
    for logits, labels, ids in batches:
        for row, row_labels, task in zip(logits, labels, ids.tolist(), strict=True):
            for position, label in enumerate(row_labels[1:].tolist()):
                if label != -100:
                    weight = weights[TASKS[task]]
                    mass += weight
                    total -= weight * float(row[position].log_softmax(-1)[label])
    return total / mass, mass


def step(balance: StepBalance, batches: list[Batch], factor: int = 1) -> tuple[float, float]:
    for _, labels, ids in batches:
        balance.normalizer.add(labels, ids)
    denominator = balance.begin_step(factor)
    loss = 0.0
    for logits, labels, ids in batches:
        with balance.step_loss.micro_batch(ids):
            loss += float(balance.step_loss.on_logits(logits, labels))
    return loss, float(denominator)


def tokens(batches: list[Batch]) -> list[int]:
    """The valid tokens of each task."""
    return [
        sum(int((labels[ids == task, 1:] != -100).sum()) for _, labels, ids in batches) for task in range(3)
    ]


def begun(weighting: Weighting, **options: Any) -> StepBalance:
    return StepBalance(TASKS, weighting, StepLoss(3), **options)


def test_a_rule_given_twice_is_each_ones_own() -> None:
    """The second has its tasks in another order, and the first goes on under its own."""
    for rule in (StaticWeights(WEIGHTS), DWA(window=1)):
        first, second = begun(rule), StepBalance(TASKS[::-1], rule, StepLoss(3))
        assert first.weighting is rule
        twin = begun(DWA(window=1) if isinstance(rule, DWA) else StaticWeights(WEIGHTS))
        for index in range(4):
            batches = [batch(2 * index), batch(2 * index + 1)]
            step(second, batches[:1])
            assert step(first, batches) == step(twin, batches)
        assert (first.weighting.tasks, second.weighting.tasks) == (TASKS, TASKS[::-1])


def test_the_rule_of_a_balance_that_is_gone_serves_the_next() -> None:
    rule = DWA(window=1)
    for _ in range(2):
        balance = begun(rule)
        losses = [step(balance, [batch(index)]) for index in range(3)]
        balance.flush()
        assert balance.weighting.step == 3
    fresh = begun(DWA(window=1))
    assert losses == [step(fresh, [batch(index)]) for index in range(3)]


def test_each_step_is_eq_2_over_its_micro_batches() -> None:
    balance = begun(StaticWeights(WEIGHTS))
    for index in range(3):
        batches = [batch(3 * index + k) for k in range(3)]
        expected, mass = eq2(batches, WEIGHTS)
        loss, denominator = step(balance, batches)
        assert denominator == mass
        assert loss == pytest.approx(expected, rel=1e-12)
    plain, _ = eq2(batches, dict.fromkeys(TASKS, 1.0))
    assert abs(plain / expected - 1) > 0.05, "the weights hardly matter"


@pytest.mark.parametrize("rule", [StaticWeights(WEIGHTS), StaticWeights(WEIGHTS | {"b": 0.0})])
def test_a_step_without_all_of_its_tokens_is_found_in_the_next(rule: Weighting) -> None:
    balance = begun(rule)
    step(balance, [batch(1), batch(3)])
    step(balance, [batch(5)])
    balance.check_trained()
    balance.normalizer.add(*batch(7)[1:])
    step(balance, [batch(9)])
    balance.check_trained()
    balance.flush()
    with pytest.raises(
        ValueError,
        match=r"the `shift` of normalizer\.add\. Counted less trained on, by task: expected 0, got \[\d",
    ):
        balance.check_trained()


@pytest.mark.parametrize("rule", [TLA(), StaticWeights(WEIGHTS | {"c": 0.0})])
def test_tokens_of_a_task_that_was_not_counted_are_found_whatever_it_weighs(rule: Weighting) -> None:
    balance = begun(rule)
    logits, labels, ids = batch(1)
    forgotten = logits, labels, torch.full_like(ids, 2)
    balance.normalizer.add(*batch(0)[1:])
    balance.begin_step(1)
    for logits, labels, ids in (batch(0), forgotten):
        with balance.step_loss.micro_batch(ids):
            balance.step_loss.on_logits(logits, labels)
    balance.flush()
    with pytest.raises(ValueError, match=rf"expected 0, got \[0\.0, 0\.0, -{tokens([forgotten])[2]}\.0\]"):
        balance.check_trained()


def test_a_step_of_which_nothing_was_counted_is_refused_under_tla() -> None:
    balance = begun(TLA())
    balance.begin_step(1)
    logits, labels, ids = batch(1)
    with (
        pytest.raises(ValueError, match="denominator: expected a finite value > 0, got 0"),
        balance.step_loss.micro_batch(ids),
    ):
        balance.step_loss.on_logits(logits, labels)


def test_counts_of_one_device_are_not_held_against_the_sums_of_several_micro_batches() -> None:
    balance = begun(StaticWeights(WEIGHTS), per_device=True)
    batches = [batch(1), batch(3)]
    for each in batches:
        assert step(balance, [each]) == pytest.approx(eq2([each], WEIGHTS), rel=1e-12)
    logs = balance.logs()
    balance.check_trained()
    assert [logs[f"task_tokens/{name}"] for name in TASKS] == tokens(batches)


def test_weights_are_given_as_to_a_trainer(tmp_path: Path) -> None:
    file = TaskWeights(WEIGHTS).save(tmp_path / "weights.json")
    for weights in (WEIGHTS, TaskWeights(WEIGHTS), file, list(WEIGHTS.values())):
        balance = StepBalance(TASKS, weights, StepLoss(3))
        assert step(balance, [batch(1)]) == pytest.approx(eq2([batch(1)], WEIGHTS), rel=1e-12)


def test_the_factor_multiplies_the_loss_and_not_the_denominator() -> None:
    batches = [batch(1), batch(2)]
    loss, denominator = step(begun(StaticWeights(WEIGHTS)), batches)
    scaled, same = step(begun(StaticWeights(WEIGHTS)), batches, factor=6)
    assert same == denominator
    assert scaled == pytest.approx(6 * loss, rel=1e-12)


def test_the_sums_go_to_the_rule_before_the_next_step_and_to_the_logs_once() -> None:
    rule = DWA(window=1)
    balance = begun(rule)
    step(balance, [batch(1), batch(3)])
    assert rule.step == 0
    step(balance, [batch(5)])
    assert rule.step == 1
    logs = balance.logs()
    assert rule.step == 2
    assert [logs[f"task_tokens/{name}"] for name in TASKS] == tokens([batch(1), batch(3), batch(5)])
    assert balance.logs() == {}
    balance.flush()
    assert rule.step == 2, "nothing was left"


def test_weights_of_a_step_come_from_the_steps_before() -> None:
    balance = begun(DWA(window=1))
    for seed in (1, 3, 5):
        step(balance, [batch(seed)])
    weights = balance._weights
    assert_close(weights.sum(), torch.tensor(3.0), RELATIVE[torch.float32])
    assert (weights - 1).abs().max() > 0.01
    rule = DWA(window=1).bind(TASKS)
    for seed in (1, 3):
        logits, labels, ids = batch(seed)
        sums, counts = torch.zeros(3, dtype=torch.float64), torch.zeros(3)
        for row, row_labels, task in zip(logits, labels, ids.tolist(), strict=True):
            losses = torch.nn.functional.cross_entropy(row[:-1], row_labels[1:], reduction="none")
            sums[task] += losses.sum()
            counts[task] += (row_labels[1:] != -100).sum()
        rule.update(sums, counts)
    assert_close(weights, rule.weights(counts), RELATIVE[torch.float32])


def test_a_checkpoint_has_the_last_step() -> None:
    def made() -> StepBalance:
        return StepBalance(TASKS, DWA(window=1), StepLoss(3))

    balance, resumed = made(), made()
    for seed in range(4):
        step(balance, [batch(seed), batch(seed + 7)])
    resumed.load_state_dict(json.loads(json.dumps(balance.state_dict())))
    for seed in range(4, 6):
        assert step(resumed, [batch(seed)]) == step(balance, [batch(seed)])
        resumed.check_trained()
    assert balance.weighting.step == resumed.weighting.step == 5


def test_starting_afresh_forgets_what_a_failed_training_left() -> None:
    balance, fresh = begun(DWA(window=1)), begun(DWA(window=1))
    for seed in (1, 3, 5):
        step(balance, [batch(seed)])
    # Counted, and never begun.
    balance.normalizer.add(*batch(9)[1:])
    balance.start()
    assert step(balance, [batch(2)]) == step(fresh, [batch(2)])
    assert balance.logs() == fresh.logs()
    assert balance.weighting.state_dict() == fresh.weighting.state_dict()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()


def _on_rank(rank: int, per_device: bool) -> tuple[list[tuple[float, float]], dict[str, float]]:
    balance = begun(StaticWeights(WEIGHTS), per_device=per_device)
    # The ranks' batches are of other sizes, and the first rank goes on alone: only the logs are collective.
    steps = [[batch(2 * index + rank, n=3 + 4 * rank)] for index in range(3)]
    outcomes = [step(balance, batches) for batches in steps]
    if per_device and rank == 0:
        outcomes.append(step(balance, [batch(8)]))
    return outcomes, balance.logs()


@pytest.mark.parametrize("per_device", [False, True])
def test_ranks_share_a_denominator_or_have_one_each(two: Ranks, tmp_path: Path, per_device: bool) -> None:
    (first, logs), (second, same) = two.run(_on_rank, [0, 1], [per_device] * 2)
    for index in range(3):
        parts = [batch(2 * index + rank, n=3 + 4 * rank) for rank in (0, 1)]
        whole, mass = eq2(parts, WEIGHTS)
        own = [eq2([part], WEIGHTS) for part in parts]
        if per_device:
            for outcome, expected in zip((first[index], second[index]), own, strict=True):
                assert outcome == pytest.approx(expected, rel=1e-12)
        else:
            assert first[index][0] + second[index][0] == pytest.approx(whole, rel=1e-12)
            assert first[index][1] == second[index][1] == mass
    # Either way the logs are those of all ranks, and of every micro-batch.
    seen = [batch(2 * index + rank, n=3 + 4 * rank) for index in range(3) for rank in (0, 1)]
    seen += [batch(8)] if per_device else []
    assert [logs[f"task_tokens/{name}"] for name in TASKS] == tokens(seen)
    assert [logs[f"task_weight/{name}"] for name in TASKS] == [*WEIGHTS.values()]
    assert logs == same


def _on_some_ranks(rank: int) -> tuple[float, float, dict[str, float]] | None:
    group = dist.new_group([1])
    if rank == 0:
        return None
    balance = StepBalance(TASKS, WEIGHTS, StepLoss(3), group=group)
    return *step(balance, [batch(3)]), balance.logs()


def test_the_ranks_that_train_may_be_a_part(two: Ranks) -> None:
    """The other generates, or holds a stage of the model without the loss: waiting for it would never end."""
    other, (loss, denominator, logs) = two.run(_on_some_ranks, [0, 1])
    assert other is None
    assert (loss, denominator) == pytest.approx(eq2([batch(3)], WEIGHTS), rel=1e-12)
    assert [logs[f"task_tokens/{name}"] for name in TASKS] == tokens([batch(3)])


def _begin_by(weights: dict[str, float]) -> None:
    step(StepBalance([*weights], StaticWeights(weights), StepLoss(len(weights))), [batch(2)])


def test_ranks_of_other_weights_are_refused(two: Ranks) -> None:
    """As where a machine has an older file: each would divide by a denominator of its own."""
    old = WEIGHTS | {"b": 3.0}
    for told in two.run(_begin_by, [WEIGHTS, old]):
        assert "got {'fixed': {'a': 0.25, 'b': 4.0, 'c': 1.0}} on rank 0 and {'fixed': {'a'" in str(told)
        assert "'b': 3.0" in str(told)
    for told in two.run(_begin_by, [WEIGHTS, WEIGHTS | {"d": 1.0}]):
        assert "{'tasks': ['a', 'b', 'c'], 'fixed'" in str(told)
    assert two.run(_begin_by, [WEIGHTS, dict(WEIGHTS)]) == [None, None]


def test_every_example_runs() -> None:
    check_examples(StepBalance)
