"""ms-swift's own `swift sft` with the balanced loss: its plugin, its trainer, and what it refuses."""

from cotbal.integrations.swift.plugging import balance

__all__ = ["balance"]
