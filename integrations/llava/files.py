"""The file that each record came from, noted while LLaVA reads its data."""

import builtins
import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from cotbal.replacements import Replacements


@contextmanager
def loading_with_files(module: ModuleType, key: str, wanted: bool) -> Iterator[None]:
    """While it lasts, records that `module` reads with `open` and `json` hold their file's path under `key`.

    Args:
        module: the module whose names `open` and `json` are looked up in.
        key: where the path is noted.
        wanted: whether to do anything at all.
    """
    if not wanted:
        yield
        return
    opened: list[str] = []

    def tracked_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return builtins.open(file, *args, **kwargs)

    def noted(content: Any) -> Any:
        for record in content if isinstance(content, list) else [content]:
            if isinstance(record, dict) and opened:
                record.setdefault(key, opened[-1])
        return content

    reader = SimpleNamespace(**vars(json))
    reader.load = lambda *args, **kwargs: noted(json.load(*args, **kwargs))
    reader.loads = lambda *args, **kwargs: noted(json.loads(*args, **kwargs))
    replaced = Replacements()
    replaced.set(module, "open", tracked_open)
    replaced.set(module, "json", reader)
    try:
        yield
    finally:
        replaced.undo()
