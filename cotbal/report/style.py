"""The look of the figures: colours, rcParams, names that fit, and saving the same bytes every time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import font_manager, get_cachedir, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotbal.report.seeds import shortened, spell

# Structural colours occur nowhere else in a figure, so that the page can swap them for its own (dark mode).
INK, MUTED, GRID, PAPER = "#1f2934", "#5f6b78", "#d5dbe2", "#fefefe"
# Okabe and Ito's palette, told apart with every common colour vision.
VERMILION, BLUE, SKY, GREEN, PINK, ORANGE = "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00"

_RC: dict[str, Any] = {
    "svg.hashsalt": "cotbal",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAPER,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.1,
    "legend.frameon": False,
    "hatch.linewidth": 0.8,
}


# For the letters that DejaVu Sans lacks: Chinese, Japanese, Korean. Matplotlib comes with none.
_WIDE = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans",
    "IPAexGothic",
    "IPAGothic",
    "NanumGothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Droid Sans Fallback",
)


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and saves in the report's look whatever the reader's own matplotlib settings are."""
    installed = font_manager.get_font_names()
    families = [_RC["font.family"], *(name for name in _WIDE if name in installed)]
    with style.context(_RC | {"font.family": families}, after_reset=True):
        yield


def panel(width: float, height: float, polar: bool = False) -> tuple[Figure, Axes]:
    """Return a figure whose axes fill `width` x `height` inches; labels outside are kept on saving."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0, 0, 1, 1), projection="polar" if polar else None)


def labels(names: Sequence[str]) -> list[str]:
    """Return the names short enough for a figure and all different, without mathtext."""
    return [name.replace("$", r"\$") for name in shortened(names)]


def spell_in_figure(value: float) -> str:
    """Return `value` with two decimals and the minus sign that matplotlib's own labels have."""
    return spell(value, 2).replace("-", "\N{MINUS SIGN}")


def label_size(count: int) -> float:
    """Return the font size (points) of `count` task names along one axis."""
    return 9 if count <= 16 else 7


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG at 200 dpi, without metadata."""
    return _saved(figure, format="png", dpi=200, metadata={"Software": None})


def svg_text(figure: Figure) -> str:
    """Return the figure as SVG with text as paths, without metadata."""
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    return _saved(figure, format="svg", metadata=metadata).decode()


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with paper_style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, **options)
    _tell_missing_letters(caught)
    return buffer.getvalue()


# Of this process: a report has each letter in many figures.
_told: set[str] = set()


def _tell_missing_letters(caught: Sequence[warnings.WarningMessage]) -> None:
    """One sentence for all letters that no font has, each a warning of matplotlib's; others as they came."""
    missing = ""
    for each in caught:
        if found := re.match(r"Glyph (\d+) .* missing from", str(each.message)):
            missing += chr(int(found[1]))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if new := "".join(letter for letter in dict.fromkeys(missing) if letter not in _told):
        _told.update(new)
        warnings.warn(
            f"figures: expected a font with the letters {new}, got none: they are boxes; for Chinese, "
            f"Japanese and Korean install {_WIDE[0]} (Debian, Ubuntu: fonts-noto-cjk) and delete the list of "
            f"fonts that matplotlib keeps, {get_cachedir()}/fontlist-*.json, or give the tasks names in "
            "other letters",
            stacklevel=2,
        )
