"""Score tables with items of known gains for the tests of an estimate's report."""

from __future__ import annotations

import torch

from cotbal.estimate.scores import Scores


def make_scores(n_tasks: int = 4, n_items: int = 400, lost: tuple[int, ...] = ()) -> Scores:
    """Return scores of 0/1 items of at most 4 tasks; a task in `lost` gains nothing from its own.

    Of the others' probes the first ones hurt, the third does nothing, the later ones help.
    """
    draw = torch.Generator().manual_seed(0)
    tasks = ["vqa", "<b>x</b>", "ocr", "box"][:n_tasks]
    runs = ["mini", *tasks]
    items: dict[str, dict[str, torch.Tensor]] = {run: {} for run in runs}
    for j, task in enumerate(tasks):
        base = torch.rand(n_items, generator=draw, dtype=torch.float64)
        gain = 0.0 if j in lost else 0.2 + 0.05 * j
        for i, run in enumerate(runs):
            share = 0.0 if run == "mini" else 1.0 if run == task else 0.2 * i - 0.6
            noise = torch.rand(n_items, generator=draw, dtype=torch.float64)
            items[run][task] = (0.7 * base + 0.3 * noise < 0.4 + share * gain).double()
    mini = [items["mini"][task].mean().item() for task in tasks]
    probes = [[items[run][task].mean().item() for task in tasks] for run in tasks]
    return Scores(tasks, mini, probes, items=items)


def without_items(scores: Scores) -> Scores:
    """Return the same table without items."""
    return Scores(scores.tasks, scores.mini, scores.probes)
