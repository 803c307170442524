"""The paper's tables 2 and 4, with dI% and dE% computed again from their test scores."""

import csv
from dataclasses import dataclass
from importlib import resources

from cotbal.metrics.improvement import delta_e, delta_i, improvement

BASELINE = "STL"
# Columns of the tables by task: the RefCOCO tasks have three test sets each.
_TASKS = {
    "ShareGPT4V": ("sharegpt4v_test_cider",),
    "RefCOCO-caption": (
        "refcoco_cap_ref_test_cider",
        "refcoco_cap_ref_testB_cider",
        "refcoco_cap_refg_test_cider",
    ),
    "VQAv2": ("vqav2_testdev_em",),
    "GQA": ("gqa_testbal_em",),
    "ChartQA": ("chartqa_test_em",),
    "OCRVQA": ("ocrvqa_test_em",),
    "RefCOCO-bbox": (
        "refcoco_bbox_ref_test_iou",
        "refcoco_bbox_ref_testB_iou",
        "refcoco_bbox_refg_test_iou",
    ),
}


@dataclass(frozen=True)
class PaperRow:
    """One method of the paper: the improvement as printed and as computed from its scores, in percent."""

    table: str
    method: str
    printed_delta_i: float
    printed_delta_e: float
    delta_i: float
    delta_e: float

    @property
    def agrees(self) -> bool:
        """Whether both computed values, rounded to two decimals, are the printed ones."""
        return (round(self.delta_i, 2), round(self.delta_e, 2)) == (
            self.printed_delta_i,
            self.printed_delta_e,
        )


def paper_rows() -> list[PaperRow]:
    """Return the 17 rows of tables 2 and 4 that print dI% and dE%; their baseline is STL of table 2.

    Example:
        >>> len(paper_rows()), all(row.agrees for row in paper_rows())
        (17, True)
    """
    tables = {name: _read(name) for name in ("table2", "table4")}
    baseline = _scores(next(row for row in tables["table2"] if row["method"] == BASELINE))
    return [
        _paper_row(name, row, baseline)
        for name, rows in tables.items()
        for row in rows
        if row["method"] != BASELINE
    ]


def _paper_row(table: str, row: dict[str, str], baseline: dict[str, dict[str, float]]) -> PaperRow:
    improvements = improvement(_scores(row), baseline)
    return PaperRow(
        table=table,
        method=row["method"],
        printed_delta_i=float(row["printed_delta_I_pct"]),
        printed_delta_e=float(row["printed_delta_E_pct"]),
        delta_i=delta_i(improvements),
        delta_e=delta_e(improvements),
    )


def _scores(row: dict[str, str]) -> dict[str, dict[str, float]]:
    return {task: {column: float(row[column]) for column in columns} for task, columns in _TASKS.items()}


def _read(name: str) -> list[dict[str, str]]:
    text = (resources.files("cotbal.report") / "paper" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
