"""Figures and pictures as text that stands inside an HTML page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from cotbal.report.style import GRID, INK, MUTED, PAPER

_THUMBNAIL = (240, 240)
# The page's own colours, so that the figures follow its light and dark modes.
_PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--card)"}


def inline_svg(svg: str, name: str, description: str) -> str:
    """Return a saved figure's `<svg>` with ids of its own and structural colours left to the page."""
    element = svg[svg.index("<svg") :].strip()
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'href="#', f'href="#{name}-', element)
    element = element.replace("url(#", f"url(#{name}-")
    for colour, variable in _PAGE_COLOURS.items():
        element = element.replace(colour, variable)
    return element.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)


def png_data_uri(image: Any) -> str:
    """Return a uint8 array (H, W, 3) as a PNG data URI, pixel by pixel."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def thumbnail_data_uri(path: Path) -> str:
    """Return a picture's file, made at most 240 pixels wide and high, as a JPEG data URI."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.draft("RGB", _THUMBNAIL)
        small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL)
        small.save(buffer, format="jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
