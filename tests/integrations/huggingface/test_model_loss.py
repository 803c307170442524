"""A patched model in a loop of one's own: its training loss is Eq. 2 over the micro-batch, in float64."""

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel
from transformers import DataCollatorWithFlattening, Trainer

import cotbal
from cotbal.balancing import DWA
from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from tests.integrations.huggingface.level_cases import build
from tests.integrations.huggingface.model_losses import (
    BOUND,
    LEVELS,
    batch,
    eq2,
    gradients,
    micro_batches,
    model,
    relative,
)
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    Record,
    arguments,
    collator,
    parameters,
    records,
)
from tests.ranks import TRAINER, Ranks


@pytest.fixture(autouse=True)
def nothing_stays_patched() -> Iterator[None]:
    yield
    cotbal.unpatch()


def put_in(model: Any, **options: Any) -> Any:
    return cotbal.patch(model, **({"weights": WEIGHTS, "tasks": TASKS, "denominator": "micro"} | options))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("denominator", ["micro", "world"])
def test_each_micro_batch_is_eq_2(level: str, denominator: str) -> None:
    ours, theirs = model(), model()
    put_in(ours, level=level, denominator=denominator)
    for rows in micro_batches():
        loss, expected = ours(**batch(rows)).loss, eq2(theirs, rows)
        assert loss.dtype == torch.float64
        assert relative(loss, expected) <= BOUND
        for each, value in ((ours, loss), (theirs, expected)):
            each.zero_grad()
            value.backward()
        assert relative(gradients(ours), gradients(theirs)) <= BOUND
    plain = theirs(**without_ids(batch(rows))).loss
    assert abs(plain.item() / loss.item() - 1) > 0.05, "the weights hardly matter"


def without_ids(made: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if not key.startswith("cotbal_")}


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("4.56"),
    reason="before 4.56 attention keeps segments apart with flash-attn alone",
)
def test_packed_rows_have_one_id_per_segment() -> None:
    ours, theirs, rows = model(), model(), micro_batches()[0]
    put_in(ours)
    flatten = TaskCollator(DataCollatorWithFlattening(), TASKS)
    assert relative(ours(**flatten(rows)).loss, eq2(theirs, rows)) <= BOUND


def test_labels_of_a_shard_are_shifted_already() -> None:
    ours, theirs, rows = model(), model(), micro_batches()[0]
    put_in(ours)
    shifted = batch(rows)
    labels = shifted.pop("labels")
    shifted["shift_labels"] = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert relative(ours(**shifted).loss, eq2(theirs, rows)) <= BOUND
    assert relative(ours(**batch(rows), shift_labels=None).loss, eq2(theirs, rows)) <= BOUND


def test_a_model_that_moved_is_weighted_on_its_new_device() -> None:
    """As with the first batch of a model that was patched before it went to its GPU."""
    ours, rows = model(), micro_batches()[0]
    balance = put_in(ours).patch.loss.balance
    balance.device = torch.device("meta")
    balance.start()
    assert relative(ours(**batch(rows)).loss, eq2(model(), rows)) <= BOUND


def test_the_curves_of_the_tasks() -> None:
    ours, handle_rows = model(), micro_batches()
    handle = put_in(ours)
    for rows in handle_rows:
        ours(**batch(rows))
    logs = handle.patch.task_logs()
    for name in TASKS:
        own = [row for rows in handle_rows for row in rows if row["task"] == name]
        assert logs[f"task_tokens/{name}"] == sum(x != -100 for row in own for x in row["labels"][1:])
        assert logs[f"task_weight/{name}"] == WEIGHTS[name]


@pytest.mark.parametrize("level", LEVELS)
def test_a_llava_of_transformers(level: str) -> None:
    ours, made = build("LlavaForConditionalGeneration")
    made = {key: value.double() if value.is_floating_point() else value for key, value in made.items()}
    ours, task_ids = ours.double(), torch.tensor([1, 0])
    labels, weights = made["labels"][:, 1:], torch.tensor([[0.25], [4.0]], dtype=torch.float64)
    rows = ours(**made).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(rows, labels, reduction="none")
    expected = (weights * losses).sum() / (weights * (labels != -100)).sum()
    put_in(ours, level=level)
    assert relative(ours(**made, cotbal_task_ids=task_ids).loss, expected) <= BOUND


def test_outside_of_training_the_loss_is_the_models_own() -> None:
    ours, theirs, made = model(), model(), batch(micro_batches()[0])
    put_in(ours)
    logits = ours(input_ids=made["input_ids"], attention_mask=made["attention_mask"])
    assert logits.loss is None
    own = theirs.eval()(**without_ids(made))
    ours.eval()
    assert torch.equal(logits.logits, own.logits)
    assert torch.equal(ours(**without_ids(made)).loss, own.loss)
    with torch.no_grad():
        assert torch.equal(ours(**made).loss, own.loss)
    prompt = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(ours.generate(**prompt), theirs.generate(**prompt))


def test_a_patched_forward_keeps_its_arguments() -> None:
    """A trainer drops the columns that the signature lacks."""
    ours = model()
    named = inspect.signature(ours.forward)
    put_in(ours)
    assert inspect.signature(ours.forward) == named


def test_a_plain_function_in_place_of_the_forward() -> None:
    """As accelerate's hooks leave one. It keeps its arguments, and gets none of ours."""
    ours, rows, seen = model(), micro_batches()[0], []
    own, made = ours.forward, batch(rows)

    def plain(input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        seen.append(labels)
        return own(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    ours.forward = plain
    put_in(ours)
    assert inspect.signature(ours.forward) == inspect.signature(plain)
    columns = made.pop("input_ids"), made.pop("attention_mask")
    assert relative(ours(*columns, **made).loss, eq2(model(), rows)) <= BOUND
    with torch.no_grad():
        ours.eval()(*columns, **made)
    assert len(seen) == 2


def test_after_unpatch_the_model_is_the_very_one_it_was() -> None:
    ours, theirs, made = model(), model(), batch(micro_batches()[0])
    before = {name: dict(vars(module)) for name, module in ours.named_modules()}
    with put_in(ours):
        ours(**made)
    for name, module in ours.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert all(vars(module)[key] is value for key, value in before[name].items())
    assert torch.equal(ours(**without_ids(made)).loss, theirs(**without_ids(made)).loss)


def test_what_wraps_the_forward_afterwards_may_stay() -> None:
    """As accelerate's autocast does: unpatch leaves it, and ours passes everything through."""
    ours, made = model(), without_ids(batch(micro_batches()[0]))
    handle = put_in(ours)
    patched, calls = ours.forward, []

    def wrapping(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return patched(*args, **kwargs)

    ours.forward = wrapping
    handle.unpatch()
    assert ours.forward is wrapping
    assert torch.equal(ours(**made).loss, model()(**made).loss)
    assert calls == [1]


def test_a_copy_trains_its_own_parameters() -> None:
    ours, rows = model(), micro_batches()[0]
    put_in(ours)
    twin, theirs = copy.deepcopy(ours), model()
    for each in (twin, theirs):
        with torch.no_grad():
            each.lm_head.weight.mul_(0.5)
    loss = twin(**batch(rows)).loss
    assert relative(loss, eq2(theirs, rows)) <= BOUND
    loss.backward()
    assert ours.lm_head.weight.grad is None
    assert twin.lm_head.weight.grad is not None


@pytest.mark.full
def test_inside_torch_compile() -> None:
    torch._dynamo.reset()
    ours = model()
    put_in(ours)
    compiled = torch.compile(ours, backend="aot_eager")
    for rows in micro_batches()[::3]:
        assert relative(compiled(**batch(rows)).loss, eq2(model(), rows)) <= BOUND


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"), TRAINER)
    yield ranks
    ranks.stop()


def _on_rank(parts: list[list[Record]], level: str, denominator: str) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradients of each micro-batch of this rank, under DDP."""
    ours, outcomes = model(), []
    with put_in(ours, level=level, denominator=denominator):
        parallel = DistributedDataParallel(ours)
        for rows in parts:
            ours.zero_grad()
            (loss := parallel(**batch(rows)).loss).backward()
            outcomes.append((loss.detach(), gradients(ours).clone()))
    return outcomes


@pytest.mark.parametrize("level", LEVELS)
def test_a_micro_batch_on_all_ranks_is_one(two: Ranks, level: str) -> None:
    """The second and third have a rank without anything to train on."""
    parts = micro_batches()
    first, second = parts, [parts[3], parts[2], parts[1], parts[0]]
    outcomes = two.run(_on_rank, [first, second], [level] * 2, ["world"] * 2)
    for index, (own, other) in enumerate(zip(*outcomes, strict=True)):
        theirs = model()
        expected = eq2(theirs, first[index] + second[index])
        expected.backward()
        # DDP averages the gradients; the losses are made so that the mean is right.
        assert relative((own[0] + other[0]) / 2, expected) <= BOUND
        for _, gradient in (own, other):
            assert relative(gradient, gradients(theirs)) <= BOUND
    assert outcomes[0][1][0] == 0
    assert abs(outcomes[0][0][0] / outcomes[1][0][0] - 1) > 0.05


def test_a_micro_batch_of_each_device(two: Ranks) -> None:
    parts = micro_batches()
    halves = [parts[:2] + parts[3:], [parts[3], parts[0], parts[2]]]
    outcomes = two.run(_on_rank, halves, ["linear"] * 2, ["micro"] * 2)
    for rank, half in enumerate(halves):
        for (loss, _), rows in zip(outcomes[rank], half, strict=True):
            assert relative(loss, eq2(model(), rows)) <= BOUND


def _within_join(rows: list[Record]) -> None:
    with put_in(ours := model(), denominator="world"), Join([ddp := DistributedDataParallel(ours)]):
        ddp(**batch(rows))


def test_ranks_whose_data_may_end_are_refused(two: Ranks) -> None:
    """The others' all-reduce met one of DDP's, of another size: gloo ended the process."""
    for outcome in two.run(_within_join, micro_batches()[:2]):
        assert "denominator: expected 'micro' within torch's Join" in str(outcome)


def _on_replica(rows: list[Record], denominator: str) -> Tensor:
    ours = model()
    ours._tp_size = 2
    with put_in(ours, level="logits", denominator=denominator):
        return ours(**batch(rows)).loss.detach()


@pytest.mark.parametrize("denominator", ["micro", "world"])
def test_tensor_parallel_ranks_share_a_micro_batch(two: Ranks, denominator: str) -> None:
    rows = micro_batches()[0]
    for loss in two.run(_on_replica, [rows] * 2, [denominator] * 2):
        assert relative(loss, eq2(model(), rows)) <= BOUND


def test_training_without_ids_is_refused() -> None:
    ours = model()
    put_in(ours)
    with pytest.raises(ValueError, match="cotbal_task_ids: expected the records' task ids in every training"):
        ours(**without_ids(batch(micro_batches()[0])))


def test_training_in_evaluation_mode_is_refused() -> None:
    """A model of from_pretrained is in it, and would train on its own loss without a word."""
    ours = model().eval()
    put_in(ours)
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM in training mode .* call model\.train\(\) to tra"
    ):
        ours(**batch(micro_batches()[0]))


def test_ids_without_labels_are_refused() -> None:
    """Their loss is computed elsewhere, without weights; without gradients nothing is trained on."""
    ours, made = model(), batch(micro_batches()[0])
    put_in(ours)
    del made["labels"]
    with pytest.raises(ValueError, match=r"labels: expected them in a training batch of LlamaForCausalLM wi"):
        ours(**made)
    with torch.no_grad():
        assert ours(**made).loss is None


def test_float16_is_refused() -> None:
    """Under autocast, or of the model itself."""
    ours, made = model().float(), batch(micro_batches()[0])
    put_in(ours)
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(
            ValueError, match=r"in bfloat16 or float32, got float16.* Use bfloat16, or CoTBalTrainer"
        ),
    ):
        ours(**made)
    with pytest.raises(ValueError, match=r"in bfloat16 or float32, got float16"):
        ours.half()(**made)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours.float()(**made).loss
    assert relative(loss, eq2(model(), micro_batches()[0])) <= 0.05


@pytest.mark.parametrize("level", LEVELS)
def test_float16_within_the_model_is_refused(level: str) -> None:
    """accelerate's prepare puts its autocast into the model's forward: a patch after it lies around that."""
    ours = model().float()
    ours.forward = MethodType(torch.autocast("cpu", torch.float16)(ours.forward.__func__), ours)
    put_in(ours, level=level)
    with pytest.raises(ValueError, match=r"in bfloat16 or float32, got float16"):
        ours(**batch(micro_batches()[0]))


def test_a_step_that_failed_leaves_nothing() -> None:
    ours, rows = model(), micro_batches()[0]
    put_in(ours)
    wrong = batch(rows) | {"cotbal_task_ids": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=r"task_ids: expected values in 0\.\.1 at valid tokens"):
        ours(**wrong)
    assert relative(ours(**batch(rows)).loss, eq2(model(), rows)) <= BOUND


def test_the_stock_trainer_is_refused(tmp_path: Path) -> None:
    """It hands on its own count, and scales the loss by it; a CoTBalTrainer wants the model as it was."""
    ours, options = model().float(), {"train_dataset": records(8), "data_collator": collator()}
    put_in(ours)
    trainer = Trainer(ours, arguments(tmp_path, steps=1), **options)
    before = parameters(ours)
    with pytest.raises(
        ValueError, match=r"num_items_in_batch: .* Patch the Trainer instead: cotbal\.patch\(tr"
    ):
        trainer.train()
    assert torch.equal(parameters(ours), before)
    with pytest.raises(ValueError, match=r"already has a loss of cotbal; call restore\(\) or unpatch\(\)"):
        CoTBalTrainer(ours, arguments(tmp_path), weights=WEIGHTS, **options)
    with pytest.raises(ValueError, match=r"already has a loss of cotbal; call restore\(\) or unpatch\(\)"):
        cotbal.patch(Trainer(ours, arguments(tmp_path), **options), weights=WEIGHTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"denominator": "step"},
            r"'world' or 'micro' with a model.* Use CoTBalTrainer or cotbal\.patch\(tr",
        ),
        ({"weights": DWA(window=2), "tasks": TASKS}, r"constant ones with a model, got DWA.* CoTBalTrainer"),
        ({"tasks": None}, r"tasks: expected the task names .* got None, .* pass tasks=collator\.tasks"),
        ({"tasks": {"a.json": "short"}}, "got a mapping from file to task"),
        ({"weights": {"short": 1.0}, "tasks": TASKS}, "no weight for task 'long'"),
    ],
)
def test_what_cannot_be_right_is_refused(options: dict[str, Any], message: str) -> None:
    ours = model()
    with pytest.raises(ValueError, match=message):
        put_in(ours, **options)
    assert "forward" not in vars(ours)


def test_the_default_denominator_is_the_steps() -> None:
    with pytest.raises(ValueError, match="denominator: expected 'world' or 'micro' with a model, got 'step'"):
        cotbal.patch(model(), weights=WEIGHTS)
