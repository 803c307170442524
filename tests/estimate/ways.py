"""Cheaper ways to the weights, compared with the full estimate of the same seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from cotbal.estimate.formulas import difficulty_of
from cotbal.estimate.rules import weights_from_signals
from cotbal.estimate.scores import Scores
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all
from cotbal.estimate.uncertainty import RuleNoise, uncertainty

RUNGS = ("1/4", "1/2", "1")
FULL = RUNGS[-1]
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Tables:
    """What was measured with a seed.

    Attributes:
        shares: the score table by the share of each task in its probe.
        equal: (N,) the scores of the equally weighted model.
        lora: the score tables of runs that train LoRA adapters, by share.
    """

    shares: Mapping[str, Scores]
    equal: Sequence[float]
    lora: Mapping[str, Scores]


@dataclass(frozen=True)
class Estimate:
    """An estimate.

    Attributes:
        C: (N, N), NaN where a column is not identified; None where no probe was run.
        D: (N,).
        weights: (N,).
        cost: name of what it took, of `costs`.
    """

    C: Tensor | None
    D: Tensor
    weights: Tensor
    cost: str


def costs(sizes: Mapping[str, float]) -> dict[str, float]:
    """The samples trained on, in those of the weighted tasks.

    Args:
        sizes: of the mini run, and of all probes by their share.
    """
    found = {"no probes": sizes["mini"]}
    for share in RUNGS:
        found[share] = sizes["mini"] + sizes[share]
    # An adapter's training forms no gradient of the frozen weights: two thirds of the products.
    found |= {f"LoRA {share}": found[share] * 2 / 3 for share in ("1/4", FULL)}
    found["LoRA 1/4, mini"] = found["LoRA 1/4"] + sizes["mini"]
    found["to 1/2"] = found["1/4"] + sizes["1/2"]
    found["to 1"] = found["to 1/2"] + sizes["1"]
    return found


def probes_on(share: str) -> Callable[[Tables], Estimate]:
    """C and D from probes on a share of each task."""

    def way(tables: Tables) -> Estimate:
        scores = tables.shares[share]
        return _estimate(scores, difficulty(scores), share)

    return way


def lora_probes_on(share: str) -> Callable[[Tables], Estimate]:
    """C and D from a mini run and probes on a share of each task that train adapters."""

    def way(tables: Tables) -> Estimate:
        scores = tables.lora[share]
        return _estimate(scores, difficulty(scores), f"LoRA {share}")

    return way


def cheap_with_lora(tables: Tables) -> Estimate:
    """C from adapters on a quarter, D from the mini run and the equal-weight model that train all."""
    return _estimate(tables.lora["1/4"], _from_equal(tables), "LoRA 1/4, mini")


def cheap(tables: Tables) -> Estimate:
    """C from probes on a quarter, D from the equally weighted model."""
    scores = tables.shares["1/4"]
    return _estimate(scores, _from_equal(tables), "1/4")


def no_probes(tables: Tables) -> Estimate:
    """D from the equally weighted model, and 1 in the place of the contribution's weights."""
    D = _from_equal(tables)
    # The softmax of a constant is 1 for every task.
    return Estimate(
        None, D, _weights(tables.shares[FULL], torch.zeros_like(D), torch.zeros_like(D), D), "no probes"
    )


def adaptive(tables: Tables) -> Estimate:
    """The first rung, above the lowest, whose weights all lie within the intervals of the rung below."""
    before: RuleNoise | None = None
    for share in RUNGS:
        found = probes_on(share)(tables)
        if before is not None and bool(
            ((before.low <= found.weights) & (found.weights <= before.high)).all()
        ):
            return Estimate(found.C, found.D, found.weights, f"to {share}")
        before = uncertainty(tables.shares[share]).rules["cotbal"]
    return Estimate(found.C, found.D, found.weights, "to 1")


WAYS: dict[str, Callable[[Tables], Estimate]] = {
    "probes on 1/2": probes_on("1/2"),
    "probes on 1/4": probes_on("1/4"),
    "probes on 1/4 for C, D from the equal-weight model": cheap,
    "LoRA probes on all": lora_probes_on(FULL),
    "LoRA probes on 1/4": lora_probes_on("1/4"),
    "LoRA probes on 1/4 for C, D from the equal-weight model": cheap_with_lora,
    "no probes: D from the equal-weight model": no_probes,
    "rungs 1/4, 1/2, 1 until the weights stay within their intervals": adaptive,
}


def agreement(found: Estimate, full: Estimate) -> list[float]:
    """Rank correlations of C off the diagonal, D and the weights, and the largest change of a weight."""
    change = (found.weights - full.weights).abs().max().item()
    return [
        _of_cells(found.C, full.C),
        spearman(found.D, full.D),
        spearman(found.weights, full.weights),
        change,
    ]


def spearman(a: Tensor, b: Tensor) -> float:
    """The rank correlation of two lists without ties."""
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()


def markdown(tables: Sequence[Tables], cost: Mapping[str, float]) -> str:
    """The table of all ways over the seeds: means, and in brackets the worst seed."""
    fulls = [probes_on(FULL)(each) for each in tables]
    lines = [
        "| estimate | cost / S | C | D | lambda | max change of a lambda | p |",
        "|---|---|---|---|---|---|---|",
    ]
    pairs = [agreement(a, b) for a, b in combinations(fulls, 2)]
    if pairs:
        lines.append(_line("full, another seed (the ceiling)", [cost[FULL]], pairs, fulls[0], None))
    for name, way in WAYS.items():
        found = [way(each) for each in tables]
        rows = [agreement(each, full) for each, full in zip(found, fulls, strict=True)]
        chance = permutation_p(found, fulls)
        lines.append(_line(name, [cost[each.cost] for each in found], rows, found[0], chance))
    equal = [(full.weights - 1).abs().max().item() for full in fulls]
    lines.append(f"| equal weights | 0 | - | - | - | {_mean_and_worst(equal, max)} | - |")
    null, change = permuted(fulls)
    lines.append(
        f"| null: the tasks permuted | - | {' | '.join(f'{r:.2f}' for r in null)} | {change:.2f} | .05 |"
    )
    return "\n".join(lines)


def permutation_p(found: Sequence[Estimate], fulls: Sequence[Estimate]) -> float:
    """How often permuted tasks reach the mean rank correlation of the weights over the seeds."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(each.weights, full.weights) for each, full in zip(found, fulls, strict=True)]
    reached = sum(spearman(a, b) for a, b in pairs) / len(pairs)
    null = sum(_null(a, b, generator) for a, b in pairs) / len(pairs)
    return (1 + (null >= reached - 1e-9).sum().item()) / (1 + PERMUTATIONS)


def permuted(fulls: Sequence[Estimate]) -> tuple[list[float], float]:
    """The 95 % points of the mean rank correlations with permuted estimates, and the mean change."""
    generator = torch.Generator().manual_seed(0)
    draws, changes = [], []
    for _ in range(2000):
        rows = []
        for full in fulls:
            order = torch.randperm(len(full.D), generator=generator)
            assert full.C is not None
            other = Estimate(full.C[order][:, order], full.D[order], full.weights[order], full.cost)
            rows.append(agreement(other, full))
        means = torch.tensor(rows, dtype=torch.float64).nanmean(0)
        draws.append(means[:3])
        changes.append(means[3].item())
    return torch.stack(draws).nanquantile(0.95, dim=0).tolist(), sum(changes) / len(changes)


def _null(a: Tensor, b: Tensor, generator: torch.Generator) -> Tensor:
    """(PERMUTATIONS,) rank correlations of a with b in random orders."""
    ranks_a = a.argsort().argsort().double()
    ranks_b = b.argsort().argsort().double()
    orders = torch.stack([torch.randperm(len(b), generator=generator) for _ in range(PERMUTATIONS)])
    centred = ranks_a - ranks_a.mean()
    return (centred * (ranks_b[orders] - ranks_b.mean())).sum(1) / (centred**2).sum()


def _estimate(scores: Scores, D: Tensor, cost: str) -> Estimate:
    C = contribution(scores, on_unidentified="drop")
    return Estimate(C, D, _weights(scores, one2all(C), all2one(C), D), cost)


def _from_equal(tables: Tables) -> Tensor:
    mini = tables.shares[FULL].mini
    return difficulty_of(mini, torch.tensor(tables.equal, dtype=torch.float64))


def _weights(scores: Scores, one: Tensor, all_: Tensor, D: Tensor) -> Tensor:
    found = weights_from_signals(one, all_, D, tasks=scores.tasks)
    return torch.tensor([found[task] for task in scores.tasks], dtype=torch.float64)


def _of_cells(C: Tensor | None, full: Tensor | None) -> float:
    """Over the cells off the diagonal that both know."""
    if C is None or full is None:
        return float("nan")
    known = ~(C.isnan() | full.isnan() | torch.eye(len(C), dtype=torch.bool))
    return spearman(C[known], full[known]) if known.sum() > 1 else float("nan")


def _line(
    name: str, cost: Sequence[float], rows: Sequence[Sequence[float]], first: Estimate, chance: float | None
) -> str:
    C, D, weights, change = zip(*rows, strict=True)
    cells = [_mean_and_worst(C, min) if first.C is not None else "-", _mean_and_worst(D, min)]
    cells += [_mean_and_worst(weights, min), _mean_and_worst(change, max)]
    price = f"{sum(cost) / len(cost):.2f}"
    return f"| {name} | {price} | {' | '.join(cells)} | {'-' if chance is None else f'{chance:.4f}'} |"


def _mean_and_worst(values: Sequence[float], worst: Callable[[Sequence[float]], float]) -> str:
    return f"{sum(values) / len(values):.2f} ({worst(values):.2f})"
