"""ms-swift's own `swift sft` with the balanced loss: its plugin, its trainer, and what it refuses."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotbal.integrations.swift._public import *
else:
    from cotbal._on_demand import on_demand

    __getattr__, __dir__ = on_demand(__name__)
