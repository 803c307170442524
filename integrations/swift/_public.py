"""The public name of `cotbal.integrations.swift`, which it imports when it is used."""

from cotbal.integrations.swift.plugging import balance

__all__ = ["balance"]
