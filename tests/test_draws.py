"""Draws of one's own on several GPUs: each device's generator is put back, and no other is touched."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cotbal._draws import devices_of, own_draws
from tests.generators import of_gpus, seeds


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], [7, 8, 9]),
        (["cpu", "meta"], [7, 8, 9]),
        (["cuda"], [5, 8, 9]),
        (["cuda:1"], [7, 5, 9]),
        (["cuda:2", "cpu", "cuda:1", "cuda:2"], [7, 5, 5]),
    ],
)
def test_the_generators_of_these_devices_and_no_others(
    devices: list[str], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generators = of_gpus(monkeypatch)
    before = [each.get_state() for each in (torch.default_generator, *generators)]
    drawn = []
    for _ in range(2):
        with own_draws(5, map(torch.device, devices)):
            assert seeds() == expected
            drawn.append([torch.rand(4), *(torch.rand(4, generator=each) for each in generators)])
    of_seed = torch.rand(4, generator=torch.Generator().manual_seed(5))
    own = [True, *(seed == 5 for seed in expected)]
    for is_own, first, second in zip(own, *drawn, strict=True):
        assert torch.equal(first, of_seed) == torch.equal(first, second) == is_own
    after = [each.get_state() for each in (torch.default_generator, *generators)]
    kept = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    # What drew from a generator that is none of these moved it.
    assert kept == own


def test_they_are_put_back_where_the_draws_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = of_gpus(monkeypatch)
    before = [each.get_state() for each in generators]
    with pytest.raises(KeyError), own_draws(5, [torch.device("cuda", 1)]):
        raise KeyError
    assert all(torch.equal(one.get_state(), state) for one, state in zip(generators, before, strict=True))


def test_a_generator_without_a_state_to_keep_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.mps, "manual_seed", seeded.append)
    with own_draws(5, [torch.device("mps")]):
        assert seeded == [5]


def test_a_module_is_on_the_devices_of_its_parameters_and_buffers() -> None:
    with FakeTensorMode():
        module = nn.BatchNorm1d(2, device="cuda:1")
        module.register_parameter("own", nn.Parameter(torch.ones(2, device="cuda:2")))
        module.register_buffer("scale", torch.ones(2))
    assert devices_of(module) == {torch.device("cuda", 1), torch.device("cuda", 2), torch.device("cpu")}
