"""Hugging Face: the exact loss of the whole optimizer step in Trainer, SFTTrainer and trainers of your own.

Install it with `pip install "path/to/cotbal[hf]"`. transformers is imported with the first name used: it
takes seconds, and a command's words are told without.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

for _name in ("accelerate", "transformers"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(
            f'cotbal.integrations.huggingface needs {_name}: pip install "path/to/cotbal[hf]"', name=_name
        )

if TYPE_CHECKING:
    from cotbal.integrations.huggingface._public import *
else:
    from cotbal._on_demand import on_demand

    __getattr__, __dir__ = on_demand(__name__)
