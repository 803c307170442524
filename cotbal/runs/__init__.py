"""The running of a plan: its runs, their store, the processes that work on them, one or many at once.

A run is a function and its settings; what it computes is no business of this package.
"""
