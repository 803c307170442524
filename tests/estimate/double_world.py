"""The digit world with twice the data and the same mini subsets: a quarter is four of them, not two.

Importing this adds the profile "double"; workers do so as they import the function of its runs from here.
"""

import dataclasses

from cotbal.demo.job import run
from cotbal.demo.profiles import PROFILES

__all__ = ["FUNCTION", "NAME", "run"]

NAME = "double"
FUNCTION = f"{__name__}:run"
_QUICK = PROFILES["quick"]
PROFILES[NAME] = dataclasses.replace(
    _QUICK,
    name=NAME,
    conversations={task: 2 * size for task, size in _QUICK.conversations.items()},
    mini_ratio=_QUICK.mini_ratio / 2,
)
