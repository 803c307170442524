"""Results in the demo's form with everything a report must bear: made by a function, not measured."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

NAMES = ["caption", "vqa", "rel", "<b>x</b>", "ocr", "region caption of the left-hand part", "bbox"]
METRICS = ["CIDEr", "EM", "EM", "EM", "EM", "CIDEr", "IoU"]
METHODS = ["STL", "EW", "CoTBal"]
FULL_METHODS = [
    *METHODS,
    "TLA",
    *(f"CoTBal ({rule})" for rule in ("one2all", "all2one", "contribution", "difficulty")),
]
RULES = ["cotbal", "contribution", "one2all", "all2one", "difficulty", "equal"]


def make_results(
    n_tasks: int = 7, seeds: tuple[int, ...] = (0,), *, unidentified: bool = True
) -> dict[str, Any]:
    """Return results; task 3 is unidentified in the first seed, C has values below 0 and above 1."""
    tasks = [NAMES[i] if i < len(NAMES) else f"task number {i}" for i in range(n_tasks)]
    metrics = {task: METRICS[i % len(METRICS)] for i, task in enumerate(tasks)}
    lost = {seed: ([tasks[3 % n_tasks]] if unidentified and seed == seeds[0] else []) for seed in seeds}
    by_seed = {str(seed): _one_seed(tasks, metrics, seed, lost[seed], len(seeds) > 1) for seed in seeds}
    summary = _summary(list(by_seed.values()))
    return {
        "schema_version": 1,
        "kind": "demo",
        "profile": "quick",
        "tasks": tasks,
        "fixed": {"chat": 1.0},
        "metrics": {**metrics, "chat": "EM"},
        "temperature": 0.5,
        "alpha": 0.5,
        "seeds": list(seeds),
        "by_seed": by_seed,
        "summary": summary,
        "statements": [
            *(entry["verdict"] for entry in summary["against_EW"].values()),
            *(
                f"{name}: its gain was too small to divide by (seed {seed})."
                for seed in seeds
                for name in lost[seed]
            ),
        ],
        "run": {
            "wall_seconds": 184.3,
            "cpu_seconds": 371.9,
            "workers": 2,
            "versions": {"cotbal": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7"},
            "command": f"cotbal demo --seed {seeds[0]} --out 'my <folder>'",
        },
    }


def make_samples() -> list[dict[str, Any]]:
    """Return four sample records: two with a 24 x 24 picture, one without, one whose text is markup."""
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return [
        {
            "task": "caption",
            "image": picture,
            "question": "describe the image .",
            "answer": "two digits : a red 3",
        },
        {"task": "bbox", "image": picture[::-1], "question": "the red 3", "answer": "[0.04 0.33 0.29 0.62]"},
        {
            "task": "<b>x</b>",
            "image": picture[:, ::-1],
            "question": "sum of <all> digits ?",
            "answer": "12 & more",
        },
        {"task": "chat", "image": None, "question": "what is 3 plus 4 ?", "answer": "7"},
    ]


def _one_seed(
    tasks: list[str], metrics: dict[str, str], seed: int, lost: list[str], full: bool
) -> dict[str, Any]:
    draw = random.Random(seed)
    n = len(tasks)
    contribution: list[list[float | None]] = [[draw.gauss(0.2, 0.3) for _ in tasks] for _ in tasks]
    contribution[1][0], contribution[0][1] = -0.41, 1.37
    for i, j in ((i, j) for i in range(n) for j in range(n) if i == j or tasks[j] in lost):
        contribution[i][j] = 1.0 if i == j else None
    one2all = [_mean(contribution[i][j] for j in range(n) if j != i) for i in range(n)]
    all2one = [_mean(contribution[j][i] for j in range(n) if j != i) for i in range(n)]
    difficulty = [draw.uniform(0.05, 0.7) for _ in tasks]
    mini = {task: draw.uniform(0.2, 0.5) for task in tasks}
    probes = {a: {b: mini[b] + draw.uniform(0.0, 0.4) for b in tasks} for a in tasks}
    test = _test_scores(tasks, metrics, draw, FULL_METHODS if full else METHODS)
    improvement = {
        method: {
            task: test[method][task][metrics[task]] / test["STL"][task][metrics[task]] - 1 for task in tasks
        }
        for method in test
        if method != "STL"
    }
    return {
        "scores": {"mini": mini, "probes": probes},
        "contribution": contribution,
        "one2all": one2all,
        "all2one": all2one,
        "difficulty": difficulty,
        "unidentified": lost,
        "weights": _weights(tasks, one2all, all2one, difficulty),
        "test": test,
        "improvement": improvement,
        "delta_i": {m: 100 * statistics.fmean(values.values()) for m, values in improvement.items()},
        "delta_e": {
            m: 100 * abs(statistics.fmean(min(0.0, v) for v in i.values())) for m, i in improvement.items()
        },
    }


def _test_scores(
    tasks: list[str], metrics: dict[str, str], draw: random.Random, methods: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    stl = {task: draw.uniform(0.4, 0.9) for task in tasks}
    scores = {
        method: {
            task: {metrics[task]: stl[task] * (1 if method == "STL" else draw.gauss(1.06, 0.1))}
            for task in tasks
        }
        for method in methods
    }
    for method in methods[1:]:
        scores[method]["chat"] = {"EM": draw.uniform(0.3, 0.5)}
    return scores


def _weights(
    tasks: list[str], one2all: list[float], all2one: list[float], difficulty: list[float]
) -> dict[str, dict[str, float]]:
    given, received, hard = _softmax(one2all), _softmax([-value for value in all2one]), _softmax(difficulty)
    both = [(a + b) / 2 for a, b in zip(given, received, strict=True)]
    values = [
        [(a + b) / 2 for a, b in zip(both, hard, strict=True)],
        both,
        given,
        received,
        hard,
        [1.0] * len(tasks),
    ]
    return {
        rule: dict(zip([*tasks, "chat"], [*v, 1.0], strict=True))
        for rule, v in zip(RULES, values, strict=True)
    }


def _softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value / 0.5) for value in values]
    return [len(values) * power / sum(powers) for power in powers]


def _mean(values: Any) -> float:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else 0.0


def _summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    methods = list(seeds[0]["delta_i"])
    own = {
        key: {method: _estimate([seed[key][method] for seed in seeds]) for method in methods}
        for key in ("delta_i", "delta_e")
    }
    against = {}
    for method in (name for name in methods if name != "EW"):
        pairs = {key: _estimate([seed[key][method] - seed[key]["EW"] for seed in seeds]) for key in own}
        place = (
            "inside the seed noise" if len(seeds) > 1 else "from one seed, which cannot tell it from noise"
        )
        against[method] = {**pairs, "verdict": f"{method}: the difference from EW is {place}."}
    return {**own, "against_EW": against}


def _estimate(values: list[float]) -> dict[str, float | None]:
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "stderr": stderr}
