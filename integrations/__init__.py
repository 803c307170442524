"""Adapters to training frameworks, one folder each; a framework is imported only by its own adapter."""
