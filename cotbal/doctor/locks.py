"""Locks that killed compilations left: DeepSpeed waits for one as long as it takes, without a word."""

import os
import time
from pathlib import Path

# A compilation takes a minute or two; an older lock is nobody's.
_MOST_SECONDS = 600


def abandoned_locks() -> list[str]:
    """What to do about each lock of torch's compiled extensions that is older than any compilation takes."""
    try:
        from torch.utils.cpp_extension import get_default_build_root
    except ImportError:  # no setuptools: nothing was ever compiled here
        return []
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    # An extension's folder, by default below one for each Python and device.
    found = sorted([*root.glob("*/lock"), *root.glob("*/*/lock")])
    return [
        f"{path}: left by a compilation that was killed, DeepSpeed waits for it without a word; delete it"
        for path in found
        if _age(path) > _MOST_SECONDS
    ]


def _age(path: Path) -> float:
    """Seconds; 0 where it has just been taken away."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
