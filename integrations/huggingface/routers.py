"""Classes with routed experts: the auxiliary loss of their routers beside Eq. 2, its mean over the step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from csrc_triton.checks import require


class RouterCoefficient(NamedTuple):
    """Where a class with routed experts keeps what it multiplies their auxiliary loss by."""

    holder: Any
    name: str

    @property
    def value(self) -> float:
        """As it is now: trainers set it late."""
        return float(getattr(self.holder, self.name))


def router_coefficient(model: Any) -> RouterCoefficient | None:
    """Of a class with routed experts; None of another."""
    for holder in (model, model.config.get_text_config()):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            if isinstance(getattr(holder, name, None), int | float):
                return RouterCoefficient(holder, name)
    return None


def with_routers(
    name: str,
    ours: Tensor,
    loss: Tensor | None,
    auxiliary: Tensor | None,
    coefficient: RouterCoefficient | None,
    share: float | None,
) -> Tensor:
    """Our loss and this micro-batch's share of the routers', in place of the sum that the class made, 0-d.

    Args:
        name: of the class.
        ours: what the class was given, 0-d.
        loss: what it made of that.
        auxiliary: the routers' loss in its outputs, 0-d.
        coefficient: what the class multiplies it by.
        share: `StepLoss.auxiliary_share`.

    Raises:
        ValueError: the class added something else, nothing says how many micro-batches the step has, or the
            routers' loss trains nothing.
    """
    if coefficient is None or share is None or not isinstance(auxiliary, Tensor) or loss is None:
        raise ValueError(
            f"{name} adds to its loss what the step's denominator does not cover; switch it off "
            "(output_router_logits=False, in TRL router_aux_loss_coef=0.0; z_loss_coefficient=0.0; no "
            "router_labels in the batch). A router's aux_loss is averaged by CoTBalTrainer alone"
        )
    if not auxiliary.requires_grad and ours.requires_grad:
        raise ValueError(
            f"{name}: expected its routers' loss to lead to a parameter that is trained, got one leading to "
            "none: reentrant gradient checkpointing hides it (use_reentrant=False), or nothing up to the "
            "routers is trained (output_router_logits=False)"
        )
    added = coefficient.value * auxiliary.to(ours.device)
    # As the class adds it, to the bit; infinite where float16 overflows, which its scaler sees.
    rest = (loss - (ours + added)).detach()
    is_all = (rest == 0) | rest.isnan()
    expected = f"{name}: expected {coefficient.value} times its routers' loss beside ours, no more"
    if torch.compiler.is_compiling():
        torch._assert_async(is_all, expected)
    else:
        require(is_all, expected, rest)
    return ours + share * added
