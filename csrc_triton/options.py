"""The options of the loss that change what a row's loss is."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossOptions:
    """What a row's loss c_r is, with y the label and lse the log-sum-exp of z = softcap tanh(x / softcap).

        c_r = cw[y] (1 - eps) (lse - z_y) + (eps / V) sum_v cw[v] (lse - z_v) + zeta lse^2

    Attributes:
        label_smoothing: eps in 0..1.
        z_loss: zeta, >= 0.
        softcap: > 0, or None for z = x.
        class_weights: cw (V,) in the accumulation dtype, finite and >= 0; None: all 1. A class of weight 0
            adds exactly 0 to the sum, whatever its logit.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    class_weights: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether c is the cross-entropy alone."""
        scalars = (self.label_smoothing, self.z_loss, self.softcap or 0.0)
        return not any(scalars) and self.class_weights is None
