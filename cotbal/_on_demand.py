"""Public names, imported when the first is used: torch takes seconds, and most verbs do without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def on_demand(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`: its modules, and the names of its module `_public`."""

    def public() -> dict[str, Any]:
        module = import_module(f"{package}._public")
        names = {name: getattr(module, name) for name in module.__all__}
        vars(sys.modules[package]).update(names, __all__=module.__all__)
        return {**names, "__all__": module.__all__}

    def get(name: str) -> Any:
        if name == "__all__" or not name.startswith("_"):
            if find_spec(f"{package}.{name}") is not None:
                return import_module(f"{package}.{name}")
            if name in (names := public()):
                return names[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *public()})
