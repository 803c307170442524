"""LLaVA: its own `train.py`, unchanged, with the exact task-weighted loss of the whole optimizer step."""

import importlib
from types import ModuleType
from typing import Any

from cotbal.integrations.llava.versions import check_names, check_versions

_CLASSES = ("LazySupervisedDataset", "DataCollatorForSupervisedDataset", "LLaVATrainer")


def patch_llava(module: ModuleType, **options: Any) -> Any:
    """Put the balanced loss into LLaVA's classes; `cotbal.patch` calls this.

    Args:
        module: the package `llava`, or one with the same `train.train`.
        options: those of `LLaVAPatch`.

    Raises:
        ImportError: transformers or LLaVA's training code is missing or of another version.
        ValueError: it is patched already; each step would be counted twice.
    """
    check_versions(module)
    from cotbal.integrations.llava.patching import MARK, LLaVAPatch

    train_module = importlib.import_module(f"{module.__name__}.train.train")
    check_names(train_module, _CLASSES)
    if hasattr(train_module.LLaVATrainer, MARK):
        raise ValueError(
            f"{module.__name__}: expected its own code, got patched code; call cotbal.unpatch() first, "
            "or train in a process of its own"
        )
    return LLaVAPatch(train_module, **options)


__all__ = ["patch_llava"]
