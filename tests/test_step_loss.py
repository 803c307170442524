"""Micro-batches under the denominator of their step: their sum is the loss of the whole batch."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cotbal
from cotbal.normalizer import StepNormalizer
from cotbal.step_loss import StepLoss
from tests.examples import check_examples
from tests.tolerances import RELATIVE, assert_close

WEIGHTS = torch.tensor([0.25, 4.0, 1.0])


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head, labels and ids in float64; the third sample has no valid label."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(5, 9, 6, generator=generator, dtype=torch.float64)
    head = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (5, 9), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.4] = -100
    labels[:, 0], labels[2] = 3, -100
    return hidden.requires_grad_(), head.requires_grad_(), labels, torch.tensor([0, 1, 1, 2, 0])


def begun(labels: torch.Tensor, ids: torch.Tensor, shift: bool = True, **options: float) -> StepLoss:
    step_loss, normalizer = StepLoss(3, **options), StepNormalizer(3)
    normalizer.add(labels, ids, shift=shift)
    step_loss.begin_step(WEIGHTS, WEIGHTS.double() @ normalizer.total().counts)
    return step_loss


@pytest.mark.parametrize("level", ["logits", "linear"])
def test_micro_batches_add_up_to_the_whole_batch(level: str) -> None:
    hidden, head, labels, ids = batch()
    options = {"label_smoothing": 0.1, "z_loss": 1e-3}
    whole, stats = cotbal.gtw_cross_entropy(
        hidden @ head.t(), labels, ids, WEIGHTS, shift=True, softcap=5.0, return_stats=True, **options
    )
    expected = torch.autograd.grad(whole, (hidden, head))
    step_loss = begun(labels, ids, **options)
    losses = []
    # The second micro-batch has no valid label.
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        with step_loss.micro_batch(ids[rows]):
            if level == "logits":
                loss = step_loss.on_logits(hidden[rows] @ head.t(), labels[rows], softcap=5.0)
            else:
                loss = step_loss.on_hidden(hidden[rows], head, labels[rows], softcap=5.0)
        loss.backward()
        losses.append(loss.detach())
    assert losses[1] == 0
    assert_close(sum(losses), whole, 1e-6)
    for leaf, gradient in zip((hidden, head), expected, strict=True):
        assert_close(leaf.grad, gradient, 1e-6)
    sums = step_loss.take_sums()
    assert_close(sums.loss_sum, stats.loss_sum, 1e-12)
    assert sums.token_count.tolist() == stats.token_count.tolist()
    assert sums.correct_count.tolist() == stats.correct_count.tolist()
    assert step_loss.take_sums().token_count.tolist() == [0, 0, 0]


@pytest.mark.parametrize("level", ["logits", "linear"])
def test_a_loss_scale_reaches_the_gradient_before_it_is_rounded(level: str) -> None:
    """A step of 10^6 tokens: without the scale every entry but the labels' is 0 in float16."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 16, generator=generator).half().requires_grad_()
    head = torch.randn(512, 16, generator=generator).half().div(4).requires_grad_()
    labels, ids = torch.randint(512, (64,), generator=generator), torch.arange(64) % 3
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    scale, denominator = scaler.scale(torch.ones(())), torch.tensor(1e6)
    step_loss = StepLoss(3)
    step_loss.begin_step(WEIGHTS, denominator, scale)
    logits = (hidden.float() @ head.float().t()).half().detach().requires_grad_()
    with step_loss.micro_batch(ids):
        if level == "logits":
            loss = step_loss.on_logits(logits, labels, shift=False)
        else:
            loss = step_loss.on_hidden(hidden, head, labels, shift=False)
    scaler.scale(loss).backward()

    leaves = [logits] if level == "logits" else [hidden, head]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z = exact[0] if level == "logits" else exact[0] @ exact[1].t()
    losses = torch.nn.functional.cross_entropy(z, labels, reduction="none")
    expected = (losses * WEIGHTS[ids]).sum() / denominator
    assert_close(loss, expected, 1e-3 if level == "logits" else 1e-5)
    for leaf, gradient in zip(leaves, torch.autograd.grad(expected * scale, exact), strict=True):
        assert_close(leaf.grad, gradient, RELATIVE[torch.float16])
    assert (logits.grad != 0).float().mean() > 0.9 if level == "logits" else hidden.grad.any()


def test_a_bias_and_labels_that_are_shifted_already() -> None:
    hidden, head, labels, ids = batch()
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64)
    whole = cotbal.gtw_cross_entropy(hidden @ head.t() + bias, labels, ids, WEIGHTS, shift=True)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    step_loss = begun(shifted, ids, shift=False)
    with step_loss.micro_batch(ids):
        assert_close(step_loss.on_hidden(hidden, head, shifted, bias=bias, shift=False), whole, 1e-6)
    with step_loss.micro_batch(ids, valid_count=45):
        logits = hidden @ head.t() + bias
        assert_close(step_loss.on_logits(logits, shifted, shift=False), whole, 1e-6)


def test_a_step_without_a_valid_token_is_0_with_its_graph() -> None:
    hidden, head, labels, ids = batch()
    labels = torch.full_like(labels, -100)
    step_loss = begun(labels, ids)
    with step_loss.micro_batch(ids):
        loss = step_loss.on_hidden(hidden, head, labels)
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()


@pytest.mark.parametrize("level", ["logits", "linear"])
def test_the_head_may_be_on_another_gpu(level: str) -> None:
    """As a `device_map` spreads a model: its batches, its losses and the sums are on the first."""
    first, last = torch.device("cuda:0"), torch.device("cuda:1")
    with FakeTensorMode(), torch.no_grad():
        step_loss = StepLoss(3, impl="torch")
        step_loss.begin_step(torch.empty(3, device=first), torch.empty((), device=first))
        labels = torch.empty(2, 5, dtype=torch.int64, device=last)
        with step_loss.micro_batch(torch.empty(2, dtype=torch.int64, device=first), valid_count=10):
            hidden, head = torch.empty(2, 5, 6, device=last), torch.empty(11, 6, device=last)
            if level == "logits":
                loss = step_loss.on_logits(torch.empty(2, 5, 11, device=last), labels, shift=False)
            else:
                loss = step_loss.on_hidden(hidden, head, labels, shift=False)
        assert {each.device for each in (loss, *step_loss.take_sums())} == {first}
        # What a host and a GPU would wait for is told as ever.
        with pytest.raises(ValueError, match="cpu"), step_loss.micro_batch(torch.empty(2, dtype=torch.int64)):
            step_loss.on_logits(torch.empty(2, 5, 11, device=last), labels, shift=False)


def test_it_is_active_within_a_micro_batch_only() -> None:
    hidden, head, labels, ids = batch()
    step_loss = begun(labels, ids)
    assert not step_loss.is_active
    with pytest.raises(ValueError, match="outside of `micro_batch`"):
        step_loss.on_hidden(hidden, head, labels)
    with step_loss.micro_batch(ids):
        assert step_loss.is_active
        step_loss.on_hidden(hidden, head, labels)
    assert not step_loss.is_active
    with (
        pytest.raises(TypeError, match="expected a tensor, got list"),
        step_loss.micro_batch([0, 1, 1, 2, 0]),
    ):
        pass
    # An error of the model goes through, and leaves nothing behind.
    with pytest.raises(ValueError, match="hidden"), step_loss.micro_batch(ids):
        step_loss.on_hidden(hidden[..., :3], head, labels)
    assert not step_loss.is_active


def test_it_tells_whether_the_loss_is_in_what_is_trained_on() -> None:
    hidden, head, labels, ids = batch()
    step_loss = begun(labels, ids)
    with step_loss.micro_batch(ids):
        # Nothing can be told before the loss was called.
        assert step_loss.leads_to(hidden.sum())
        loss = step_loss.on_hidden(hidden, head, labels)
        assert step_loss.leads_to(loss)
        assert step_loss.leads_to(2 * (loss + hidden.sum()) / 3)
        assert not step_loss.leads_to((hidden @ head.t()).sum())
        assert not step_loss.leads_to(loss.detach())


def test_a_loss_without_a_gradient_is_not_what_is_trained_on() -> None:
    """As of a forward pass that a reentrant checkpoint runs without one, and again in the backward pass."""
    hidden, head, labels, ids = batch()
    step_loss = begun(labels, ids)
    with step_loss.micro_batch(ids):
        with torch.no_grad():
            loss = step_loss.on_hidden(hidden, head, labels)
        assert step_loss.leads_to(loss)
        with pytest.raises(ValueError, match="expected a loss with a gradient, got one that was computed"):
            step_loss.leads_to(loss + hidden.sum())


def test_a_step_keeps_its_constants_whatever_becomes_of_the_tensors() -> None:
    """As where the next step's tokens are counted in the same tensor while this one's micro-batches run."""
    step_loss, weights, denominator = StepLoss(3), WEIGHTS.clone(), torch.tensor(10.0)
    logits, labels = torch.randn(3, 5, 11), torch.arange(15).view(3, 5) % 11
    step_loss.begin_step(weights, denominator)
    losses = []
    for _ in range(2):
        with step_loss.micro_batch(torch.arange(3)):
            losses.append(step_loss.on_logits(logits, labels))
        weights.mul_(2)
        denominator.add_(7)
    assert torch.equal(*losses)


def test_sums_gather_over_steps_and_one_task_is_enough() -> None:
    hidden, head, labels, _ = batch()
    step_loss, ids = StepLoss(1), torch.zeros(5, dtype=torch.int64)
    for _ in range(2):
        step_loss.begin_step(torch.ones(1), torch.tensor(1.0))
        with step_loss.micro_batch(ids):
            step_loss.on_hidden(hidden, head, labels)
    assert step_loss.take_sums().token_count.tolist() == [2 * int((labels[:, 1:] != -100).sum())]


def test_what_cannot_be_right_is_refused() -> None:
    _, _, labels, ids = batch()
    with pytest.raises(ValueError, match="expected begin_step"), StepLoss(3).micro_batch(ids):
        pass
    step_loss = begun(labels, ids)
    with pytest.raises(ValueError, match="one micro-batch at a time"):  # noqa: SIM117
        with step_loss.micro_batch(ids), step_loss.micro_batch(ids):
            pass
    with pytest.raises(ValueError, match="before the step's micro-batches"), step_loss.micro_batch(ids):
        step_loss.begin_step(WEIGHTS, torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"weights: expected the shape \(3,\), got \(2,\)"):
        step_loss.begin_step(WEIGHTS[:2], torch.tensor(1.0))
    with pytest.raises(ValueError, match="denominator: expected a 0-d tensor"):
        step_loss.begin_step(WEIGHTS, torch.ones(1))
    step_loss.begin_step(WEIGHTS.double() * 1e-60, torch.tensor(1.0))
    with pytest.raises(ValueError, match="weights that float32 holds"), step_loss.micro_batch(ids):
        step_loss.on_logits(torch.randn(*labels.shape, 11), labels)
    with pytest.raises(ValueError, match="n_tasks: expected at least 1"):
        StepLoss(0)


@pytest.mark.parametrize("calls", [0, 2])
def test_a_loss_that_is_called_not_once_is_refused(calls: int) -> None:
    hidden, head, labels, ids = batch()
    step_loss = begun(labels, ids)

    def model() -> None:
        with step_loss.micro_batch(ids):
            for _ in range(calls):
                step_loss.on_hidden(hidden, head, labels)

    with pytest.raises(RuntimeError, match=f"called its loss {calls} times"):
        model()


def test_the_example_runs() -> None:
    check_examples(StepLoss)
