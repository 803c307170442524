import re

import pytest
from PIL import Image

from cotbal.report.check_page import render_check_page
from cotbal.report.lengths_figure import lengths_figure
from tests.report.reading import Page

BINS = [0, 1, 2, 3, 4, 6, 8, 12, 16]
SIZES = {
    **{
        "records": 1200,
        "with_picture": 1000,
        "turns": 2400,
        "measured": 1200,
        "positions": 9000,
        "valid": 1000,
    },
    **{"kept_positions": 8000, "kept_valid": 800, "ignored": 0.9, "cut": 7, "no_answer_left": 1},
    **{"lengths": [0, 0, 0, 0, 700, 300, 200, 0, 0], "answers": [0, 0, 600, 600, 0, 0, 0, 0, 0]},
}
UNMEASURED = SIZES | {"measured": 0, "kept_positions": 0, "kept_valid": 0, "ignored": None, "cut": 0}


def content(**changed):
    return {
        "errors": {"task": 25},
        "warnings": {"shared-picture": 1},
        "files": [{"file": "a<b.json", "split": "train", "records": 1200, "sha256": "0123456789abcdef" * 4}],
        "pictures": 5,
        **{"unit": "tokens", "tokenizer": "vicuna", "most_tokens": 10, "image_tokens": 576, "asked_again": 0},
        "bins": BINS,
        "tasks": [
            {"split": "train", "task": "GQA & more", **SIZES},
            {"split": "validation", "task": "GQA & more", **UNMEASURED},
        ],
    } | changed


def finding(kind, level, got="<script>alert(1)</script>"):
    row = {
        "kind": kind,
        "level": level,
        "file": "a<b.json",
        "record": 1234,
        "field": "task",
        "advice": "mend it",
    }
    return row | {"expected": "a name", "got": got}


FINDINGS = {
    "task": [finding("task", "error")] * 20,
    "shared-picture": [finding("shared-picture", "warning")],
}


@pytest.fixture(scope="module")
def html():
    return render_check_page(content(), FINDINGS)


def test_sizes_are_those_of_the_content(html):
    page = Page(html)
    assert page.tables["sizes"][1:] == [
        ["GQA & more", "train", "1,200", "1,000", "2,400", "8,000", "800", "90.0 %", "7", "1"],
        ["GQA & more", "validation", "1,200", "1,000", "2,400", "", "", "", "", ""],
    ]
    assert page.tables["files"][1:] == [["a<b.json", "train", "1,200", "0123456789abcdef"]]
    assert "90.0 % of the 8,000 positions are not trained on" in html


def test_findings_are_divided_and_escaped(html):
    assert "<h1>Data check: 25 errors, 1 warning</h1>" in html
    kinds = re.findall(
        r'<span class="(\w+)">\1</span> <b>([\w-]+)</b> <span class="count">(\d+)</span>', html
    )
    assert kinds == [("error", "task", "25"), ("warning", "shared-picture", "1")]
    assert "And 5 more" in html
    assert "a&lt;b.json, record 1,234, task" in html
    assert "<script>" not in html
    # Self-contained: nothing is loaded from anywhere.
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)


def test_words_and_nothing_opened_are_said():
    words = content(unit="words", tokenizer=None, pictures=None, asked_again=3)
    html = render_check_page(words, FINDINGS)
    assert "Words were counted, as no tokenizer was given" in html
    assert "No picture was opened" in html
    assert "3 times a question is asked" in html


def test_empty_check_has_a_page():
    html = render_check_page(content(errors={}, warnings={}, tasks=[]), {})
    assert "Data check: 0 errors, 0 warnings" in html
    assert "<figure" not in html


def test_samples_show_their_pictures(tmp_path):
    Image.effect_noise((600, 300), 80).save(tmp_path / "a.png")
    sample = {"task": "GQA", "question": "what?", "answer": "this", "image": tmp_path / "a.png"}
    html = render_check_page(content(), FINDINGS, [sample, sample | {"image": None}])
    assert html.count('src="data:image/jpeg;base64,') == 1
    assert html.count('<div class="blank">no image</div>') == 1
    assert html == render_check_page(content(), FINDINGS, [sample, sample | {"image": None}])


def test_bars_and_the_line_of_truncation():
    figure = lengths_figure(content()["tasks"][:1], BINS, "tokens", 10)
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == SIZES["lengths"]
    assert [bar.get_height() for bar in right.patches] == SIZES["answers"]
    # Between 8, where bin 6 begins, and 12, where bin 7 does.
    assert [line.get_xdata()[0] for line in left.lines] == [6.5]
    assert not lengths_figure(content()["tasks"][:1], BINS, "words", None).axes[0].lines


def test_largest_tasks_are_drawn():
    tasks = [{"task": f"t{n}", **SIZES, "measured": n + 1} for n in range(20)]
    figure = lengths_figure(tasks, BINS, "tokens", None)
    assert [axes.get_ylabel() for axes in figure.axes[::1] if axes.get_ylabel()] == [
        f"t{n}" for n in range(4, 20)
    ]
