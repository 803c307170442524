"""The linear level where a rank holds a part of the head: two gloo processes, one sample each."""

from collections.abc import Iterator

import pytest
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from cotbal.integrations.huggingface.levels import install_loss
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.level_cases import build
from tests.integrations.huggingface.level_runs import (
    BOUNDS,
    DENOMINATOR,
    TASK_IDS,
    WEIGHTS,
    in_double,
    largest_error,
    run,
)
from tests.ranks import TRAINER, Ranks

Gradients = dict[str, Tensor]
N_RANKS = 2
# Its head is not tied, so that it can be a group of its own, and its logits are scaled.
NAME = "GraniteForCausalLM"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(N_RANKS, tmp_path_factory.mktemp("ranks"), TRAINER)
    yield ranks
    ranks.stop()


def shard(model: nn.Module) -> nn.Module:
    """Each layer and the head gathered on their own."""
    mesh = init_device_mesh("cpu", (N_RANKS,))
    for module in (*model.model.layers, model.lm_head, model):
        fully_shard(module, mesh=mesh)
    return model


def gradients(rank: int, wrapper: str) -> Gradients:
    model, batch = in_double(*build(NAME))
    model = shard(model) if wrapper == "sharded before" else model
    step_loss = StepLoss(2)
    assert install_loss(model, step_loss, "auto").level == "linear"
    if wrapper == "DDP":
        model = DistributedDataParallel(model)
    elif wrapper == "sharded after":
        model = shard(model)
    # Gradients are averaged over the ranks.
    step_loss.begin_step(WEIGHTS, DENOMINATOR / N_RANKS)
    with step_loss.micro_batch(TASK_IDS[rank : rank + 1]):
        model(**{key: value[rank : rank + 1] for key, value in batch.items()}).loss.backward()
    found = {key.removeprefix("module."): p.grad for key, p in model.named_parameters()}
    return {key: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for key, grad in found.items()}


@pytest.mark.parametrize("wrapper", ["DDP", "sharded after", "sharded before"])
def test_gradients_are_those_of_one_process(ranks: Ranks, wrapper: str) -> None:
    expected = run(*in_double(*build(NAME)), "logits").gradients
    found = ranks.run(gradients, [*range(N_RANKS)], [wrapper] * N_RANKS)
    for of_rank in found:
        assert largest_error(of_rank, expected) <= BOUNDS.float64
