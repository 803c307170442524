"""What is timed: cases and providers, the most telling first, at most 200 timings unless all are wanted.

One factor at a time around 8192 rows, 20 % valid, random logits, upstream gradient 1 and a trainable head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from benchmarks.inputs import Case
from benchmarks.provider import Provider

LIMIT = 200
ROWS = (2048, 4096, 8192, 16384, 32768)
SHARES = (0.05, 0.2, 1.0)
VOCABULARIES = (32000, 32003, 128256, 152064, 262144)
# Width and vocabulary of the head.
MODELS = {"LLaVA-1.5": (4096, 32000), "Llama 3": (4096, 128256), "Qwen2": (3584, 152064)}
BARE = "bare products"

# The other factors vary around one vocabulary and one model.
_LOGITS_CENTRE, _LINEAR_CENTRE = 128256, "LLaVA-1.5"
# Two views of one thing: where every row is valid is enough of them.
_DENSE_ONLY = {"cotbal kept", "cotbal min", "torch compiled"}
# Who answers the other factors, so that 200 timings do: ours and whatever could be the best weightable rival.
_VARIED = {
    "logits": ("cotbal", "Liger", "flash-attn", "Unsloth", "QuACK", "compact + torch", "compact + QuACK"),
    "linear": ("cotbal", "Liger", "Liger scaled", "CCE exact", "TRL", "compact + torch", "compact + QuACK"),
}
# Full logits, for the figure against the share of valid rows.
_VARIED_SHARE = ("torch", "torch chunked")
_FULL_ONLY = {"torch fp32", "Liger unweighted"}


@dataclass(frozen=True)
class Item:
    """One timing."""

    case: Case
    provider: str

    @property
    def key(self) -> str:
        return f"{self.provider}: {self.case}"


@dataclass(frozen=True)
class Grid:
    """The sizes of a plan: those of the real one, or small ones for a CPU and for tests.

    Attributes:
        vocabularies: V at the level of logits.
        heads: (D, V) of the linear level.
        rows: N; the middle one is where the other factors vary.
        dtype: of everything.
    """

    vocabularies: tuple[int, ...] = VOCABULARIES
    heads: tuple[tuple[int, int], ...] = tuple(MODELS.values())
    rows: tuple[int, ...] = ROWS
    centres: tuple[int, int] = (VOCABULARIES.index(_LOGITS_CENTRE), list(MODELS).index(_LINEAR_CENTRE))
    dtype: str = "bfloat16"

    @property
    def middle(self) -> int:
        return self.rows[len(self.rows) // 2]


GPU = Grid()
# A CPU has neither the time nor the memory; the same shape of plan at the linear level, in float32.
CPU = Grid((), ((256, 8000), (256, 32000), (256, 128000)), (128, 512, 2048), (0, 1), "float32")
TINY = Grid((131,), ((16, 96),), (16, 32, 48), (0, 0), "float32")


def bases(grid: Grid) -> list[Case]:
    """The central case of every vocabulary and of every model."""
    logits = [Case("logits", grid.middle, n_cols, dtype=grid.dtype) for n_cols in grid.vocabularies]
    linear = [Case("linear", grid.middle, n_cols, width, dtype=grid.dtype) for width, n_cols in grid.heads]
    return logits + linear


def variations(grid: Grid) -> list[Case]:
    """One factor at a time around the two centres."""
    levels = [case for case in bases(grid) if case.level == "logits"][grid.centres[0] :][:1]
    levels += [case for case in bases(grid) if case.level == "linear"][grid.centres[1] :][:1]
    changes: list[Callable[[Case], Case]] = [
        partial(replace, share=0.05),
        partial(replace, upstream=0.25),
        partial(replace, kind="peaked"),
        lambda case: replace(case, frozen_head=case.level == "linear"),
        *(partial(replace, rows=rows) for rows in sorted(grid.rows, reverse=True) if rows != grid.middle),
    ]
    varied = (change(case) for change in changes for case in levels)
    return [case for case in varied if case not in levels]


def whole_grid(grid: Grid) -> Iterator[Case]:
    """Every combination of the factors."""
    for case in bases(grid):
        frozen = (False, True) if case.level == "linear" else (False,)
        for rows, share, kind, upstream, head in product(
            grid.rows, SHARES, ("random", "peaked"), (1.0, 0.25), frozen
        ):
            yield replace(case, rows=rows, share=share, kind=kind, upstream=upstream, frozen_head=head)


def make_plan(grid: Grid, providers: dict[str, list[Provider]], *, full: bool = False) -> list[Item]:
    """All timings in the order in which they are taken; the caller stops at its limit.

    Args:
        grid: the sizes.
        providers: those found, by level.
        full: the whole grid and every provider instead of one factor at a time.
    """
    names = {level: [provider.name for provider in found] for level, found in providers.items()}
    if full:
        return [Item(case, name) for case in whole_grid(grid) for name in [*names[case.level], *_bare(case)]]
    central = bases(grid)
    items = []
    for case in [*(replace(case, share=1.0) for case in central), *central]:
        chosen = [name for name in names[case.level] if _belongs(name, case)]
        items += [Item(case, name) for name in [*chosen, *_bare(case)]]
    for case in variations(grid):
        varied = _VARIED[case.level] + (_VARIED_SHARE if case.share == min(SHARES) else ())
        items += [Item(case, name) for name in names[case.level] if name in varied and _belongs(name, case)]
    return items


def _bare(case: Case) -> list[str]:
    return [BARE] if case.level == "linear" and case.share == 1.0 else []


def _belongs(name: str, case: Case) -> bool:
    if name in _FULL_ONLY:
        return False
    is_dense = case.share == 1.0
    # Leaving rows out first is of use only where there are some to leave out.
    return (is_dense or name not in _DENSE_ONLY) and not (is_dense and name.startswith("compact"))
