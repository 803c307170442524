"""Greedy answers to held-out questions: what the generations of the frameworks share."""
