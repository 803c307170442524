"""A head that FSDP2 has sharded: what the error says to pass trains it as one process does."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cotbal
from tests.ranks import Ranks
from tests.tolerances import assert_gradients_close

N_RANKS = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    pytest.importorskip("torch.distributed.fsdp", reason="torch 2.4 has it under another name")
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("torch before 2.6 has it under another name")
    started = Ranks(N_RANKS, tmp_path_factory.mktemp("ranks"))
    yield started
    started.stop()


def data_of(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(6, 8, generator=generator), torch.randint(36, (6,), generator=generator)


def head() -> nn.Linear:
    made = nn.Linear(8, 36, bias=False)
    nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(9))
    return made


def sharded_gradient(rank: int) -> tuple[str, Tensor]:
    """The error of the sharded head, and the gradient where it is passed as that says."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Partial

    made: Any = fully_shard(head())
    hidden, labels = data_of(rank)
    try:
        cotbal.linear_gtw_cross_entropy(hidden, made.weight, labels)
    except TypeError as error:
        message = str(error)
    whole = made.weight.full_tensor(grad_placements=[Partial("avg")])
    cotbal.linear_gtw_cross_entropy(hidden, whole, labels).backward()
    return message, made.weight.grad.full_tensor()


def test_the_gradient_of_a_sharded_head_is_that_of_all_ranks(ranks: Ranks) -> None:
    """Data parallel: the mean over the ranks, as FSDP2 makes it of other parameters."""
    alone = head()
    for rank in range(N_RANKS):
        (
            cotbal.linear_gtw_cross_entropy(data_of(rank)[0], alone.weight, data_of(rank)[1]) / N_RANKS
        ).backward()
    for message, gradient in ranks.run(sharded_gradient, list(range(N_RANKS))):
        assert '.full_tensor(grad_placements=[Partial("avg")])' in message
        assert_gradients_close(gradient, alone.weight.grad, torch.float32)
