"""Result files: JSON with environment and provenance, under `benchmarks/results/<device>/`."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.meters import device_name
from cotbal.files import finite_or_null, write_text_atomically

SCHEMA_VERSION = 1
RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "liger-kernel",
    "cut-cross-entropy",
    "fla-core",
    "trl",
    "flash-attn",
    "quack-kernels",
    "unsloth",
)


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were made with."""
    found: dict[str, Any] = {
        "device": device_name(device),
        "device_type": device.type,
        "python": platform.python_version(),
        "system": platform.system(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "code": _code(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_mib": properties.total_memory // 2**20,
            "cuda": torch.version.cuda,
        }
    return found


def path_of(name: str, device: torch.device, folder: Path = RESULTS) -> Path:
    """Where the results `name` of a device are kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return folder / slug / f"{name}.json"


def save(path: Path, content: dict[str, Any]) -> Path:
    """Writes `content` with its schema version and the time, whole or not at all."""
    stamped = {"schema_version": SCHEMA_VERSION, "written": _now(), **content}
    return write_text_atomically(path, json.dumps(finite_or_null(stamped), indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
        ValueError: it is no result file of this version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; delete it and run again") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"{path}: expected schema_version {SCHEMA_VERSION}; delete it and run again")
    return content


def _code() -> str:
    """A digest of what is measured and of what measures it: another one's numbers are not these."""
    top, digest = RESULTS.parents[1], hashlib.sha256()
    for folder in ("benchmarks", "cotbal", "csrc_triton"):
        for path in sorted((top / folder).glob("*.py")):
            digest.update(f"{path.relative_to(top)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(package: str) -> str | None:
    # `torch` itself knows its build, which the metadata does not tell.
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
