"""Page and card of a comparison: the same numbers in both, the best in bold, nothing from elsewhere."""

import re

import pytest

from cotbal.compare import Column, Finals, Model, Rungs, compare, shares_content
from cotbal.report.comparison import comparison_card, render_comparison, write_comparison
from tests.report.reading import Page

COLUMNS = (
    Column("a", metric="EM"),
    Column("b", "near", "IoU"),
    Column("b", "far", "IoU"),
    Column("c", metric="CER", better="lower"),
)
SCORES = {
    "STL": (0.40, 51.0, 40.0, 0.30),
    "EW": (0.50, 48.0, 44.0, 0.36),
    "CoTBal": (0.55, 60.5, 44.0, 0.24),
    "<b>|odd*": (0.30, 52.0, 39.0, 0.30),
}


def finals(items=True):
    names = [column.name for column in COLUMNS]
    models = {}
    for method, row in SCORES.items():
        scores = dict(zip(names, row, strict=True))
        spread = {name: [score * (0.8 + 0.1 * k) for k in range(5)] for name, score in scores.items()}
        details = (
            {"weights": {"a": 1.0, "b": 0.5, "c": 1.5}} if method == "CoTBal" else {"rule": {"rule": "DWA"}}
        )
        models[method] = {0: Model(scores, spread if items else {}, details)}
    return Finals(COLUMNS, models)


@pytest.fixture(scope="module")
def content():
    return compare(finals(), title="table2")


@pytest.fixture(scope="module")
def page(content):
    return Page(render_comparison(content))


def test_the_page_has_every_score_and_measure(content, page):
    head, *rows = page.tables["scores"]
    assert head[-2:] == ["ΔI % ↑", "ΔE % ↓"]
    assert "b farIoU ↑" in head[3].replace("\n", "")
    assert [row[0] for row in rows] == list(SCORES)
    assert rows[2][1].startswith("0.5500")
    assert rows[2][2].startswith("60.50")
    ours = next(row for row in content["methods"] if row["name"] == "CoTBal")
    assert rows[2][5].startswith(f"{ours['delta_i']:.2f}")
    assert rows[0][5] == ""
    # By hand: a 25 %, b (-3/51 + 4/40) / 2, c worse by a fifth.
    by_task = page.tables["by-task"]
    assert by_task[1] == ["EW", "+25.00", "+2.06", "-20.00"]
    assert page.tables["weights"][1:] == [["CoTBal", "1.000", "0.500", "1.500"]]
    assert "Weights that change in every step: STL, EW" in page.text


def test_the_best_is_bold_by_the_direction_of_its_column_and_ties_are_all_best(content):
    card = comparison_card(content)
    lines = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in card.splitlines() if line[:1] == "|"
    }
    bold = {name: [cell.strip()[:2] == "**" for cell in cells] for name, cells in lines.items()}
    scores = card.split("## ")[1].splitlines()
    ours = next(line for line in scores if line.startswith("| CoTBal"))
    assert [cell.strip().startswith("**") for cell in ours.split("|")[2:-1]] == [True] * 6
    equal = next(line for line in scores if line.startswith("| EW"))
    assert [cell.strip().startswith("**") for cell in equal.split("|")[2:-1]] == [
        False,
        False,
        True,
        *[False] * 3,
    ]
    assert bold["STL"] == [False] * 6


def test_card_and_page_escape_what_a_name_may_hold(content, page):
    assert "\\<b\\>\\|odd\\*" in comparison_card(content)
    assert any(row[0] == "<b>|odd*" for row in page.tables["scores"])
    assert "script" not in page.tags


def test_delta_e_is_said_to_be_a_mean_over_all_tasks(content, page):
    """Of three tasks EW loses a fifth on one: 6.67, and not the 20 that a mean over that one would be."""
    ours = next(row for row in content["methods"] if row["name"] == "EW")
    assert ours["delta_e"] == pytest.approx(20 / 3)
    assert "the mean loss against it, where a task that gained counts as 0" in page.text


def test_the_radar_says_what_its_axes_are_where_lower_is_better(content, page):
    """Of c, worse by a fifth, 0.8 is drawn: neither its score over the baseline's nor its inverse."""
    ours = next(row for row in content["methods"] if row["name"] == "EW")
    assert 1 + ours["improvement"]["c"] == pytest.approx(2 - ours["scores"]["c"] / SCORES["STL"][3])
    assert "or of 2 − that where lower is better" in page.text


def test_the_tables_of_the_card_are_tables_of_markdown():
    """Each head on one line, with as many cells as its rows, whatever a task's name holds."""
    columns = (Column("a|b", metric="EM"), Column("c", "near", "IoU"))
    models = {
        name: {0: Model({"a|b": score, "c/near": score})} for name, score in (("STL", 0.4), ("EW", 0.5))
    }
    card = comparison_card(compare(Finals(columns, models)))
    blocks = [block.splitlines() for block in card.split("\n\n") if "| ---" in block]
    assert len(blocks) == 3
    for block in blocks:
        assert block[1].startswith("| ---")
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1
    assert blocks[0][0] == r"| method | a\|b EM ↑ | c near IoU ↑ | ΔI % ↑ | ΔE % ↓ |"


def test_the_page_loads_nothing_and_is_the_same_twice(content, page):
    assert all(reference.startswith("#") for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert {"figure-improvement", "figure-radar"} <= set(page.ids)
    assert render_comparison(content) == render_comparison(content)


def test_without_items_or_baseline_the_page_has_what_there_is():
    plain = Page(render_comparison(compare(finals(items=False))))
    assert "There are no intervals" in plain.text
    # A CSV has no number of it.
    assert "4 methods on 3 tasks (one seed)" in plain.text
    assert plain.tables["scores"][1][1] == "0.4000"
    alone = Page(render_comparison(compare(finals(), baseline="none")))
    assert list(alone.tables) == ["scores", "weights"]
    assert alone.tables["scores"][0][-1] == "cCER ↓"


def test_scores_by_share_have_their_figure_and_table(tmp_path):
    rungs = Rungs(
        {"mini": 1 / 32, "1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "full": 1.0},
        {"a": "EM", "c": "CER", "late": "EM"},
        {"a": "", "c": "complement: 1", "late": ""},
        {"a": [[0.2, 0.3, 0.35, 0.38, 0.4]], "c": [[0.9, 0.7, 0.6, 0.55, 0.5]]},
        {"a": [[[0.1, 0.3], [0.3, 0.3], [0.35, 0.35], [0.3, 0.46], [0.4, 0.4]]], "c": [[None] * 5]},
    )
    content = shares_content(rungs)
    assert content["tasks"]["a"]["relative"] == pytest.approx([0.5, 0.75, 0.875, 0.95, 1])
    assert content["tasks"]["c"]["relative"] == pytest.approx([0.2, 0.6, 0.8, 0.9, 1])
    assert content["tasks"]["c"]["relative_intervals"] is None
    assert content["tasks"]["a"]["relative_intervals"][0] == pytest.approx([0.25, 0.75])
    assert content["missing"] == ["late"]
    written = write_comparison(content, tmp_path, "figure1b")
    page = Page(written["html"].read_text())
    assert page.tables["shares"][0] == ["task", "mini (1/32)", "1/8", "1/4", "1/2", "all"]
    assert page.tables["shares"][1] == ["a (EM)", "0.2000", "0.3000", "0.3500", "0.3800", "0.4000"]
    assert "Not finished, and so left out: late." in page.text
    assert written["shares.png"].stat().st_size > 1000
    with pytest.raises(ValueError, match="no task has a score for every share"):
        shares_content(Rungs({"full": 1.0}, {"a": "EM"}, {"a": ""}))
