"""Score tables for the tests: drawn ones whose every column is identified, and the two-task example."""

import torch
from hypothesis import strategies as st

from cotbal.estimate.scores import Scores

UNIT = st.floats(0.05, 0.5)


@st.composite
def score_tables(draw, min_tasks=2, max_tasks=5):
    """Scores where each task's own probe beats the mini run and others lie on either side of it."""
    n_tasks = draw(st.integers(min_tasks, max_tasks))
    mini = [draw(UNIT) for _ in range(n_tasks)]
    probes = [[draw(UNIT) for _ in range(n_tasks)] for _ in range(n_tasks)]
    for place in range(n_tasks):
        probes[place][place] = mini[place] + draw(UNIT)
    return Scores([f"task {place}" for place in range(n_tasks)], mini, probes)


def permuted(scores, order):
    return Scores(
        [scores.tasks[place] for place in order], scores.mini[order], scores.probes[order][:, order]
    )


def example(**options):
    """Three tasks; column "b" is not identified."""
    return Scores(
        ["a", "b", "c"],
        mini=[0.25, 0.5, 0.125],
        probes=[[0.75, 0.625, 0.25], [0.375, 0.5, 0.0], [0.0, 0.25, 0.625]],
        **options,
    )


def items(gain, noise, n=100):
    """Paired items of task "a": the probe gains `gain` on average, the differences have spread `noise`."""
    base = torch.linspace(0, 1, n, dtype=torch.float64)
    return {"mini": {"a": base}, "a": {"a": base + gain + noise * torch.tensor([1.0, -1.0]).repeat(n // 2)}}
