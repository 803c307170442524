"""Attributes are put back exactly: the very object, or none where there was none."""

from types import ModuleType
from typing import Any

import pytest

from cotbal.replacements import Replacements
from tests.examples import check_examples


class Base:
    def step(self) -> str:
        return "base"


class Child(Base):
    def own(self) -> str:
        return "child"


def test_own_and_inherited_attributes_come_back_as_they_were() -> None:
    before, own = dict(vars(Child)), vars(Child)["own"]
    replaced = Replacements()
    replaced.set(Child, "step", lambda self: "ours")
    replaced.set(Child, "own", lambda self: "ours")
    assert (Child().step(), Child().own(), Base().step()) == ("ours", "ours", "base")
    assert replaced.names == ["Child.step", "Child.own"]
    replaced.check()
    replaced.undo()
    assert dict(vars(Child)) == before
    assert vars(Child)["own"] is own
    assert replaced.names == []


def test_an_attribute_replaced_twice_comes_back_as_the_first() -> None:
    before = vars(Child)["own"]
    replaced = Replacements()
    replaced.set(Child, "own", lambda self: "first")
    replaced.set(Child, "own", lambda self: "second")
    assert Child().own() == "second"
    replaced.undo()
    assert vars(Child)["own"] is before


@pytest.mark.parametrize("owner", [ModuleType("some.module"), Child()])
def test_modules_and_objects(owner: Any) -> None:
    owner.held = None
    replaced = Replacements()
    replaced.set(owner, "held", 1)
    replaced.set(owner, "new", 2)
    name = "some.module" if isinstance(owner, ModuleType) else "Child"
    assert replaced.names == [f"{name}.held", f"{name}.new"]
    replaced.undo()
    # It was None, which is not the same as absent.
    assert owner.held is None
    assert not hasattr(owner, "new")


def test_what_was_put_over_ours_is_told() -> None:
    owner = Child()
    replaced = Replacements()
    replaced.set(owner, "first", 1)
    replaced.set(owner, "second", 2)
    owner.second = 3
    with pytest.raises(
        ValueError, match=r"Child\.second was replaced after cotbal\.patch\(\); take that pat"
    ):
        replaced.check()
    owner.second = 2
    del owner.first
    with pytest.raises(ValueError, match=r"Child\.first was replaced"):
        replaced.check()


def test_every_example_runs() -> None:
    check_examples(Replacements)
