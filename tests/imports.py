"""Who imports whom, read from the syntax trees: nothing is run."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("csrc_triton", "cotbal", "integrations")


def component(path: Path) -> str:
    """`cotbal/demo/world.py` is cotbal.demo, `cotbal/losses.py` cotbal.losses, and so on."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "cotbal":
        return {"integrations": "cotbal.integrations"}.get(parts[0], parts[0])
    return "cotbal" if parts[1] == "__init__" else f"cotbal.{parts[1]}"


def imports(path: Path) -> set[str]:
    """Names of all modules imported anywhere in the file, and the names taken from cotbal itself."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            found |= {f"cotbal.{alias.name}" for alias in node.names} if base == "cotbal" else {base}
    return found


def arrows() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """By component: the components of this project that it imports, and the third-party packages."""
    own: dict[str, set[str]] = defaultdict(set)
    others: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            source = component(path)
            own[source], others[source] = own[source], others[source]
            for name in imports(path):
                parts = name.split(".")
                if parts[0] == "cotbal":
                    own[source].add(".".join(parts[:2]))
                elif parts[0] == "csrc_triton":
                    own[source].add("csrc_triton")
                elif parts[0] not in sys.stdlib_module_names:
                    others[source].add(parts[0])
            own[source].discard(source)
    return own, others
