"""cotbal: the task-weighted loss and the task balancing of visual instruction tuning.

Importing this patches nothing, touches no GPU and prints nothing. torch is imported with the first name used.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotbal._public import *
else:
    from cotbal._on_demand import on_demand

    __getattr__, __dir__ = on_demand(__name__)

try:
    __version__ = version("cotbal")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
