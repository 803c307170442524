"""Whether the LLaVA and the transformers that are installed are ones that the patch was made for."""

import importlib
import importlib.util
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

# The Trainer's loop changed at both ends: it took its own accumulation, and `get_batch_samples`.
_OLDEST, _NEWEST = (4, 37), (4, 45)


def llava_package(name: str = "llava") -> ModuleType:
    """LLaVA's package, imported after a look at the versions: beside another transformers its import fails.

    Raises:
        ImportError: something is missing, too old or too new, with what to install.
    """
    if importlib.util.find_spec(name) is None:
        raise ImportError(
            f"{name}: expected LLaVA's package, got none installed; install LLaVA's repository, or "
            "pip install --no-deps llava-torch",
            name=name,
        )
    _check_transformers()
    package = importlib.import_module(name)
    check_versions(package)
    return package


def check_versions(package: ModuleType) -> None:
    """Checks a LLaVA that was imported, and the transformers beside it.

    Raises:
        ImportError: as `llava_package`.
    """
    _check_transformers()
    name = f"{package.__name__}.train"
    if not hasattr(package, "__path__") or importlib.util.find_spec(name) is None:
        raise ImportError(
            f"{package.__name__}: expected LLaVA's package with its train.train, got one without; install "
            "LLaVA's repository or llava-torch (the package `llava` of the index is an empty placeholder)",
            name=name,
        )


def check_names(module: ModuleType, names: Iterable[str]) -> None:
    """Checks that a training code has the names that are looked up in it, before any of them is changed.

    Args:
        module: LLaVA's `train.train`, or a fork's.
        names: those that are needed.

    Raises:
        ImportError: some are missing.
    """
    if missing := [name for name in names if not hasattr(module, name)]:
        raise ImportError(
            f"{module.__name__}: expected LLaVA's {', '.join(names)} in it, got none named "
            f"{', '.join(missing)}; where a fork calls or keeps them otherwise, import them there under "
            "these names"
        )


def _check_transformers() -> None:
    try:
        found = version("transformers")
    except PackageNotFoundError as error:
        raise ImportError("LLaVA needs transformers: pip install transformers==4.37.2") from error
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if not _OLDEST <= numbers <= _NEWEST:
        raise ImportError(
            f"transformers: expected {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]} with LLaVA's "
            f"train.py (tested: 4.37.2, and 4.40.2 and 4.45.2 with LLaVA-NeXT), got {found}; pip install "
            "transformers==4.37.2"
        )
