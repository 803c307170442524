"""The public names of `cotbal.integrations.huggingface`, which it imports when the first of them is used."""

from cotbal.integrations.huggingface.callback import TaskLogCallback
from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.levels import Installed, install_loss
from cotbal.integrations.huggingface.trainer import CoTBalMixin, CoTBalTrainer

__all__ = ["CoTBalMixin", "CoTBalTrainer", "Installed", "TaskCollator", "TaskLogCallback", "install_loss"]
