"""Hugging Face: the exact loss of the whole optimizer step in Trainer, SFTTrainer and trainers of your own.

Install it with `pip install "path/to/cotbal[hf]"`.
"""

try:
    import accelerate  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'cotbal.integrations.huggingface needs {error.name}: pip install "path/to/cotbal[hf]"',
        name=error.name,
    ) from error

from cotbal.integrations.huggingface.callback import TaskLogCallback
from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.levels import Installed, install_loss
from cotbal.integrations.huggingface.trainer import CoTBalMixin, CoTBalTrainer

__all__ = ["CoTBalMixin", "CoTBalTrainer", "Installed", "TaskCollator", "TaskLogCallback", "install_loss"]
