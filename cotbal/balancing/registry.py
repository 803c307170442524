"""The rules by name, for a command line or a settings file."""

from inspect import signature
from typing import Any

from cotbal.balancing.base import Weighting
from cotbal.balancing.dwa import DWA
from cotbal.balancing.igb import IGBv1
from cotbal.balancing.rlw import RLW
from cotbal.balancing.static import StaticWeights
from cotbal.balancing.tla import TLA

RULES: dict[str, type[Weighting]] = {
    "static": StaticWeights,
    "tla": TLA,
    "rlw": RLW,
    "dwa": DWA,
    "igbv1": IGBv1,
}


def by_name(name: str, **options: Any) -> Weighting:
    """The rule of that name, made with the options of its class.

    Raises:
        ValueError: an unknown name.
        TypeError: an option that the rule does not have.

    Example:
        >>> by_name("dwa", window=10).options
        {'window': 10, 'temperature': 2.0}
    """
    if name not in RULES:
        raise ValueError(f"weighting: expected one of {', '.join(RULES)}, got {name!r}")
    known = signature(RULES[name]).parameters
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise TypeError(f"{name}: got an unexpected keyword argument {option!r}; its options: {takes}")
    return RULES[name](**options)
