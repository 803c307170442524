"""One of each rule, as the tests that hold for all of them need it."""

from collections.abc import Callable, Mapping

import torch
from torchjd import scalarization
from torchjd.scalarization import (
    COSMOS,
    FAMO,
    IMTLL,
    PBI,
    STCH,
    UW,
    Constant,
    GeometricMean,
    Mean,
    Random,
    Scalarizer,
    Sum,
)

from cotbal.balancing import DWA, RLW, TLA, IGBv1, StaticWeights, TorchJDWeighting, Weighting

Make = Callable[[], Weighting]


def own_rules(fixed: Mapping[str, float] | None = None) -> dict[str, Make]:
    """The rules that may have fixed tasks."""
    return {
        "RLW": lambda: RLW(seed=3, fixed=fixed),
        "DWA": lambda: DWA(window=2, fixed=fixed),
        "IGBv1": lambda: IGBv1(1, 3, fixed=fixed),
    }


def scalarizers(n_tasks: int) -> dict[str, Callable[[], Scalarizer]]:
    """Every scalarizer of torchjd for N = `n_tasks`."""
    preference = torch.linspace(1.0, 2.0, n_tasks)
    return {
        "COSMOS": lambda: COSMOS(0.1, preference),
        "Constant": lambda: Constant(preference),
        "DWA": scalarization.DWA,
        "FAMO": lambda: FAMO(n_tasks),
        "GeometricMean": GeometricMean,
        "IMTLL": lambda: IMTLL(n_tasks),
        "Mean": Mean,
        "PBI": lambda: PBI(0.1, preference),
        "Random": Random,
        "STCH": lambda: STCH(0.5),
        "Sum": Sum,
        "UW": lambda: UW(n_tasks),
    }


def adapted(name: str, n_tasks: int, fixed: Mapping[str, float] | None = None) -> TorchJDWeighting:
    epoch_steps = 2 if name == "DWA" else None
    return TorchJDWeighting(scalarizers(n_tasks)[name](), epoch_steps=epoch_steps, fixed=fixed)


def all_rules(n_tasks: int) -> dict[str, Make]:
    """Every rule there is for `n_tasks` tasks, torchjd's among them."""
    torchjd = {f"torchjd {name}": lambda name=name: adapted(name, n_tasks) for name in scalarizers(n_tasks)}
    return {"static": StaticWeights, "TLA": TLA} | own_rules() | torchjd
