"""The page of a data check: sizes, histograms, findings and sample records, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cotbal.report.embed import inline_svg, thumbnail_data_uri
from cotbal.report.lengths_figure import MOST_ROWS, lengths_figure
from cotbal.report.page_tables import PageTable
from cotbal.report.style import svg_text


def render_check_page(
    content: Mapping[str, Any],
    findings: Mapping[str, Sequence[Mapping[str, Any]]],
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page as HTML; the same arguments give the same text.

    Args:
        content: sizes and counts, as `cotbal data check --json` prints them, without "findings".
        findings: the first of each kind, each with "level", "file", "record", "field", "expected", "got" and
            "advice".
        samples: records to show, each with "task", "question", "answer" and "image", a file's path or None.
    """
    environment = Environment(
        loader=PackageLoader("cotbal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measured = [task for task in content["tasks"] if task["measured"]]
    most = content["most_tokens"] if content["unit"] == "tokens" else None
    figure = None
    if measured:
        svg = svg_text(lengths_figure(measured, content["bins"], content["unit"], most))
        figure = inline_svg(svg, "lengths", "Histograms of the lengths of conversations by task")
    return environment.get_template("check.html").render(
        content=content,
        errors=sum(content["errors"].values()),
        warnings=sum(content["warnings"].values()),
        records=sum(file["records"] for file in content["files"]),
        sizes=_sizes(content),
        files=_files(content),
        kinds=[(kind, count, findings[kind]) for level in LEVELS for kind, count in content[level].items()],
        statements=_statements(content, measured),
        figure=figure,
        left_out=max(0, len(measured) - MOST_ROWS),
        samples=[_sample(sample) for sample in samples],
    )


LEVELS = ("errors", "warnings")


def _sizes(content: Mapping[str, Any]) -> PageTable:
    unit = content["unit"]
    head = ["task", "split", "records", "with a picture", "answers", unit, "trained on", "ignored"]
    rows = []
    for task in content["tasks"]:
        sizes = [f"{task[key]:,}" for key in ("records", "with_picture", "turns")]
        lengths = ["", "", ""]
        if task["measured"]:
            lengths = [f"{task['kept_positions']:,}", f"{task['kept_valid']:,}", _share(task["ignored"])]
        row = [task["task"], task["split"], *sizes, *lengths]
        if unit == "tokens":
            row += [f"{task[key]:,}" if task["measured"] else "" for key in ("cut", "no_answer_left")]
        rows.append(row)
    return PageTable("sizes", [*head, *(("cut", "no answer left") if unit == "tokens" else ())], rows)


def _files(content: Mapping[str, Any]) -> PageTable:
    rows = [
        [file["file"], file["split"], f"{file['records']:,}", (file["sha256"] or "")[:16]]
        for file in content["files"]
    ]
    return PageTable("files", ["file", "split", "records", "SHA-256, its beginning"], rows)


def _statements(content: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    kept, valid = (sum(task[key] for task in measured) for key in ("kept_positions", "kept_valid"))
    if kept and content["unit"] == "tokens":
        lines.append(
            f"{_share(1 - valid / kept)} of the {kept:,} positions are not trained on; the loss leaves them "
            "out before it computes logits."
        )
    if not kept or content["unit"] == "words":
        lines.append("Words were counted, as no tokenizer was given; truncation was not looked at.")
    if content["pictures"] is None:
        lines.append("No picture was opened; pictures are told apart by their paths.")
    if content["asked_again"]:
        lines.append(
            f"{content['asked_again']:,} times a question is asked of the same picture with another answer."
        )
    return lines


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    path: Path | None = sample["image"]
    return {**sample, "image": None if path is None else thumbnail_data_uri(path)}
