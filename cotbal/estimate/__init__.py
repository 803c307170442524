"""From validation scores to task weights, and Algorithm 1 that makes the scores."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotbal.estimate._public import *
else:
    from cotbal._on_demand import on_demand

    __getattr__, __dir__ = on_demand(__name__)
