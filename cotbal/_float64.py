"""Where float64 can be: on every device but Apple's MPS, whose numbers are kept in float64 on the CPU."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})


def widest_float(device: torch.device | str) -> torch.dtype:
    """float64, or float32 where the device has no float64."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def float64_device(device: torch.device | str) -> torch.device:
    """The device, or the CPU where it has no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def as_float64(tensor: Tensor) -> Tensor:
    """`tensor` in float64, on `float64_device` of its own."""
    # One after the other: the conversion must not be tried on the device.
    return tensor.to(float64_device(tensor.device)).double()
