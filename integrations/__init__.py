"""Adapters to training frameworks, one folder each, and what several share: answers, dialogues, checkpoints.

A framework is imported only by its own adapter.
"""
