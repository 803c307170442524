"""Items that belong together, such as the questions on one image, and the error of a mean over them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Numbers = Sequence[int] | Tensor
Clusters = Mapping[str, Numbers]


def checked_clusters(
    clusters: Clusters,
    items: Mapping[str, Mapping[str, Sequence[float] | Tensor]],
    name: str = "clusters",
) -> dict[str, Tensor]:
    """{task: (n,) int64} after checking them against the items {run: {task: scores}}.

    Args:
        clusters: by task.
        items: what they are of.
        name: of these numbers, for messages.

    Raises:
        ValueError: a task without items, or not one whole number per item.
    """
    sizes = {task: len(scores) for of_run in items.values() for task, scores in of_run.items()}
    checked = {}
    for task, values in clusters.items():
        numbers = numbered(values)
        if task not in sizes:
            raise ValueError(f"{name}[{task!r}]: expected one of the tasks with items: {', '.join(sizes)}")
        if numbers.shape != (sizes[task],) or numbers.is_floating_point():
            raise ValueError(
                f"{name}[{task!r}]: expected {sizes[task]} whole numbers, one per item, got shape "
                f"{tuple(numbers.shape)} of {numbers.dtype}"
            )
        checked[task] = numbers.long()
    return checked


def numbered(values: Numbers) -> Tensor:
    """Return the numbers as a tensor, by their places where one is beyond int64, as a hash may be."""
    if not isinstance(values, Tensor) and any(
        type(n) is int and not -(1 << 63) <= n < 1 << 63 for n in values
    ):
        places = {number: place for place, number in enumerate(dict.fromkeys(values))}
        values = [places[number] for number in values]
    return torch.as_tensor(values)


def cluster_sums(items: Tensor, clusters: Numbers | None, task: str) -> tuple[Tensor, Tensor]:
    """The sums (..., G) of the items (..., n) by cluster, and the sizes (G,) of the clusters.

    Args:
        items: float64, by item in the last dimension.
        clusters: (n,) a number per item, equal for those that belong together; None: every item by itself.
        task: for the message.

    Raises:
        ValueError: not one cluster number per item.
    """
    n = items.shape[-1]
    if clusters is None:
        return items, torch.ones(n, dtype=torch.float64)
    numbers = numbered(clusters)
    if numbers.shape != (n,):
        raise ValueError(f"clusters: expected {n} numbers for task {task!r}, got {tuple(numbers.shape)}")
    _, inverse = numbers.unique(return_inverse=True)
    size = int(inverse.max()) + 1
    sums = torch.zeros(*items.shape[:-1], size, dtype=torch.float64).index_add_(-1, inverse, items)
    return sums, torch.bincount(inverse, minlength=size).double()


def covariance_of_means(first: Tensor, second: Tensor, sizes: Tensor) -> Tensor:
    """The covariance (...) of the means of two paired scores, from their sums (..., G) by cluster.

    Args:
        first: sums by cluster.
        second: likewise, of the same clusters.
        sizes: (G,) items in each cluster, at least two clusters.
    """
    n_groups, total = len(sizes), sizes.sum()
    first, second = (each - (each.sum(-1, keepdim=True) / total) * sizes for each in (first, second))
    return (first * second).sum(-1) * n_groups / (n_groups - 1) / total**2
