"""Attributes of classes and objects replaced by ours, and put back exactly as they were."""

from typing import Any

_ABSENT = object()


class Replacements:
    """What was replaced, in order; `undo` gives each owner back the very object that it held, or none.

    Example:
        >>> class Trainer: ...
        >>> replaced = Replacements()
        >>> replaced.set(Trainer, "step", lambda self: "ours")
        >>> Trainer().step(), replaced.names
        ('ours', ['Trainer.step'])
        >>> replaced.undo()
        >>> hasattr(Trainer, "step")
        False
    """

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    @property
    def names(self) -> list[str]:
        """`Owner.attribute` of each replacement."""
        return [_where(owner, name) for owner, name, *_ in self._done]

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute of a class, module or object in place of its own or the inherited one."""
        self._done.append((owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def check(self) -> None:
        """Checks that each attribute is still ours.

        Raises:
            ValueError: something was put over ours since.
        """
        for owner, name, _, ours in self._done:
            if vars(owner).get(name) is not ours:
                where = _where(owner, name)
                raise ValueError(f"{where} was replaced after cotbal.patch(); take that patch off first")

    def undo(self) -> None:
        """Puts everything back, the last first."""
        while self._done:
            owner, name, own, _ = self._done.pop()
            if own is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _where(owner: Any, name: str) -> str:
    return f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
