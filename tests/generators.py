"""Generators in the place of those of three GPUs that are not there."""

import pytest
import torch


def of_gpus(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Generator, ...]:
    """What torch takes for the generators of cuda:0, the current device, cuda:1 and cuda:2."""
    generators = tuple(torch.Generator().manual_seed(7 + index) for index in range(3))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    fakes = {
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: len(generators),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda.random, name, fake)
    for generator in generators:
        # From here on the seed alone does not say where a generator is.
        torch.rand(3, generator=generator)
    return generators


def seeds() -> list[int]:
    """From which each of the GPUs' generators started."""
    return [generator.initial_seed() for generator in torch.cuda.default_generators]
