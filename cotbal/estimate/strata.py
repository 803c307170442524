"""The validation sets of a task, its strata: the score is the plain mean over them, each with its noise."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cotbal.estimate.clusters import (
    Clusters,
    Numbers,
    checked_clusters,
    cluster_sums,
    covariance_of_means,
    numbered,
)

Strata = Clusters


def checked_strata(
    strata: Strata, items: Mapping[str, Mapping[str, Sequence[float] | Tensor]], clusters: Clusters
) -> dict[str, Tensor]:
    """{task: (n,) int64} after checking them against the items {run: {task: scores}}.

    Raises:
        ValueError: a task without items, not one whole number per item, or a stratum of one item or cluster.
    """
    checked = checked_clusters(strata, items, "strata")
    for task, numbers in checked.items():
        belonging = numbered(clusters[task]) if task in clusters else torch.arange(len(numbers))
        for stratum in numbers.unique().tolist():
            if len(belonging[numbers == stratum].unique()) < 2:
                raise ValueError(
                    f"strata[{task!r}]: expected at least 2 items of each stratum, and 2 clusters where they "
                    f"are given, got 1 of stratum {stratum}; one shows nothing of its noise, so leave that "
                    "validation set out, or the task's items (items=no of `cotbal collect`)"
                )
    return checked


def balanced(items: Tensor, strata: Numbers | None) -> Tensor:
    """The items (..., n) scaled by n / (K n_k), so that their mean is the plain mean over K strata.

    Args:
        items: float64, by item in the last dimension.
        strata: (n,) a number per item, equal for those of one stratum of n_k items; None: there is one.
    """
    if strata is None:
        return items
    _, inverse, sizes = numbered(strata).unique(return_inverse=True, return_counts=True)
    return items * (items.shape[-1] / (len(sizes) * sizes.double()))[inverse]


class Part(NamedTuple):
    """What is drawn by itself; the score is the sum over the parts of sums.sum() / sizes.sum().

    Attributes:
        sums: (..., G) by cluster.
        sizes: (G,) items in each cluster.
    """

    sums: Tensor
    sizes: Tensor


def parts(items: Tensor, task: str, clusters: Numbers | None, strata: Numbers | None) -> list[Part]:
    """What of the items is drawn by itself: each stratum its clusters.

    Where a cluster has items in several strata, as an image in both RefCOCO and RefCOCO+ has, all strata are
    one part, in which each cluster c counts as one item of the value

        V + G sum_k f_k sum_{i in c, k} (x_i - m_k) / n,    f_k^2 = g_k / (g_k - 1) (G - 1) / G

    m_k being the mean of stratum k, g_k and G the clusters in it and in all. What one image does to several
    sets counts together so, to first order: drawn apart in each set it would seem independent, and intervals
    would be too narrow where items on one image are alike. Images of testA and testB are disjoint: each set
    is a part. How many items a stratum gets is no noise either way, as each counts by its stratum's mean.

    Args:
        items: (..., n) float64, balanced: their mean V is the score.
        task: for messages.
        clusters: (n,) a number per item, None: each by itself.
        strata: (n,) likewise, None: there is one.

    Raises:
        ValueError: not one cluster number per item.
    """
    if strata is None:
        return [Part(*cluster_sums(items, clusters, task))]
    labels = numbered(strata)
    chosen = [labels == stratum for stratum in labels.unique()]
    numbers = (
        torch.arange(len(labels)) if clusters is None else numbered(clusters).unique(return_inverse=True)[1]
    )
    if sum(len(numbers[of].unique()) for of in chosen) > len(numbers.unique()):
        return [_together(items, numbers, chosen)]
    found = [(int(of.sum()), cluster_sums(items[..., of], numbers[of], task)) for of in chosen]
    return [Part(sums * (size / len(labels)), sizes) for size, (sums, sizes) in found]


def variance_of_mean(whole: Sequence[Part]) -> Tensor:
    """The variance (...) of the score that consists of these parts, of at least two clusters each."""
    return torch.stack([covariance_of_means(sums, sums, sizes) for sums, sizes in whole]).sum(0)


def _together(items: Tensor, numbers: Tensor, chosen: Sequence[Tensor]) -> Part:
    n_clusters = int(numbers.max()) + 1
    off = torch.zeros(*items.shape[:-1], n_clusters, dtype=torch.float64)
    for of in chosen:
        own, inside = items[..., of], len(numbers[of].unique())
        few = (inside / (inside - 1) * (n_clusters - 1) / n_clusters) ** 0.5
        off.index_add_(-1, numbers[of], (own - own.mean(-1, keepdim=True)) * (few / len(numbers)))
    return Part(items.mean(-1, keepdim=True) + n_clusters * off, torch.ones(n_clusters, dtype=torch.float64))
