"""Adapters to training frameworks, one folder each, and `answering`, which those that generate share.

A framework is imported only by its own adapter.
"""
