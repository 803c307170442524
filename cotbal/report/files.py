"""Writing bytes whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` through a temporary file in the same folder, so that a reader never sees a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
