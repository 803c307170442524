"""Pages from their templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """Return a template of this package with its values; a name without one is an error.

    Args:
        template: name of the file.
        content: the values.
    """
    environment = Environment(
        loader=PackageLoader("cotbal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
