"""Hugging Face: the exact loss of the whole optimizer step in `Trainer`, TRL's SFTTrainer and trainers of your own.

Install it with `pip install "cotbal[hf]"`.
"""

try:
    import accelerate  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'cotbal.integrations.huggingface needs {error.name}: pip install "cotbal[hf]"', name=error.name
    ) from error

from cotbal.integrations.huggingface.collator import TASK_IDS, TaskCollator
from cotbal.integrations.huggingface.trainer import CoTBalMixin, CoTBalTrainer

__all__ = ["TASK_IDS", "CoTBalMixin", "CoTBalTrainer", "TaskCollator"]
