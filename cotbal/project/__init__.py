"""A user's own estimate: one YAML file, the runs that follow from it, and their commands."""

from pathlib import Path


def recipe_files() -> list[Path]:
    """The ready-made files, to be copied and changed."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))
