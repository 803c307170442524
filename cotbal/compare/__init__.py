"""Final models side by side: their test scores, the improvement over a baseline, and what is only noise."""

from cotbal.compare.comparison import compare
from cotbal.compare.finals import Column, Finals, Model, add_clusters, merged
from cotbal.compare.finals_files import read_finals, write_finals
from cotbal.compare.shares import Rungs, shares_content

__all__ = [
    "Column",
    "Finals",
    "Model",
    "Rungs",
    "add_clusters",
    "compare",
    "merged",
    "read_finals",
    "shares_content",
    "write_finals",
]
