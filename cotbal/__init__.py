"""cotbal: the task-weighted loss and the task balancing of visual instruction tuning.

Importing this patches nothing, touches no GPU and prints nothing.
"""

from importlib.metadata import version

from cotbal.gradcheck import GradientReport, check_gradients
from cotbal.losses import TaskStats, gtw_cross_entropy, linear_gtw_cross_entropy
from cotbal.modules import GTWLoss, LinearGTWLoss

__version__ = version("cotbal")

__all__ = [
    "GTWLoss",
    "GradientReport",
    "LinearGTWLoss",
    "TaskStats",
    "check_gradients",
    "gtw_cross_entropy",
    "linear_gtw_cross_entropy",
]
