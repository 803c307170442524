"""Whether all threads have read a row before one writes over it: asked of a kernel's machine code.

All warps read a row's label, the label's word and its edges, and a tie of top-1 is looked up in columns that
other threads hold; but one thread writes each column. So a barrier must stand between what is read before the
first column is written and that write; there is one in each sum over a row. Of what is read later, in the
steps of a long row, each thread writes what it has read itself; so it is in the kernel of a piece of the
vocabulary, which has its sums from another, and in the one that scales rows.
"""

import re
from typing import NamedTuple

_LINE = re.compile(
    r"^(?:(\.L\w+):|\s+/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;)", re.MULTILINE
)
_TARGET = re.compile(r"`\((\.L\w+)\)")


class Instruction(NamedTuple):
    """One of an NVIDIA GPU.

    Attributes:
        kind: its name without what is appended to it.
        operands: as text.
        following: the numbers of those that may come next.
    """

    kind: str
    operands: str
    following: tuple[int, ...]


def unordered_stores(machine_code: str) -> int:
    """How many stores a thread may reach while another has still to read what is read before all stores.

    A row that is not read becomes zeros without a barrier: zeros do not count where none was passed.

    Args:
        machine_code: what `nvdisasm` says of a kernel that takes one row to a program, without class weights:
            those it reads after the barriers.

    Raises:
        ValueError: it has more than branches to labels and calls of routines that compute.
    """
    code = instructions(machine_code)
    stores = {place for place, each in enumerate(code) if each.kind == "STG"}
    later = _reachable(code, stores)
    # For each place the ways to get there: whether behind a barrier, and whether something was read since.
    ways: list[set[tuple[bool, bool]]] = [set() for _ in code]
    waiting = [(0, (False, False))]
    while waiting:
        place, way = waiting.pop()
        if way in ways[place]:
            continue
        ways[place].add(way)
        kind = code[place].kind
        if kind == "BAR":
            way = (True, False)
        elif kind in ("LDG", "LDGSTS") and place not in later:
            way = (way[0], True)
        waiting += [(other, way) for other in code[place].following]
    if any(each.kind in ("LDG", "STG", "BAR") and not ways[place] for place, each in enumerate(code)):
        raise ValueError("expected routines that only compute, got one that moves memory or waits")
    return sum(
        any(
            has_read and (is_behind or not code[place].operands.endswith("RZ"))
            for is_behind, has_read in ways[place]
        )
        for place in stores
    )


def instructions(machine_code: str) -> list[Instruction]:
    """Those of a kernel, in the order of `nvdisasm`.

    Raises:
        ValueError: one goes on where only a register says.
    """
    labels: dict[str, int] = {}
    found: list[tuple[str, str, str]] = []
    for label, condition, operation, operands in _LINE.findall(machine_code):
        if label:
            labels[label] = len(found)
        else:
            found.append((condition, operation.split(".")[0], operands))
    # The threads of a branch wait for each other at its BSYNC, and go on where its BSSY says.
    ends = [
        (operands.split(",")[0], _target(operands, labels)) for _, kind, operands in found if kind == "BSSY"
    ]
    code = []
    for place, (condition, kind, operands) in enumerate(found):
        if kind in ("BRX", "JMP", "JMX"):
            raise ValueError(f"expected branches to labels alone, got {kind} {operands}")
        # A routine that is called comes back behind the call. The condition of a branch may be an operand.
        always = not condition and (kind in ("EXIT", "RET") or (kind == "BRA" and operands.startswith("`")))
        following = set() if always else {place + 1}
        if kind == "BRA":
            following.add(_target(operands, labels))
        elif kind == "BSYNC":
            following |= {end for barrier, end in ends if barrier == operands}
        code.append(Instruction(kind, operands, tuple(following)))
    return code


def _target(operands: str, labels: dict[str, int]) -> int:
    return labels[_TARGET.findall(operands)[0]]


def _reachable(code: list[Instruction], places: set[int]) -> set[int]:
    """What may come after any of the places."""
    found: set[int] = set()
    waiting = [other for place in places for other in code[place].following]
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting += code[place].following
    return found
