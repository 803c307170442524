"""From result files of many tools to one score table with per-item scores."""

from cotbal.collect.formats import FORMATS
from cotbal.collect.source import Source, parse_source
from cotbal.collect.table import Collected, collect

__all__ = ["FORMATS", "Collected", "Source", "collect", "parse_source"]
