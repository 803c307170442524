import base64
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cotbal.report.page import render_page, write_page
from tests.report.reading import Page
from tests.report.results_example import make_results, make_samples


@pytest.fixture(scope="module")
def one():
    return make_results()


@pytest.fixture(scope="module")
def html(one):
    return render_page(one, make_samples())


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def three():
    return make_results(seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def page_of_three(three):
    return Page(render_page(three))


def spelled(value, digits=3):
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-0.000", "0.000")


def test_weights_are_those_of_the_results(one, page):
    rules = ["cotbal", "contribution", "one2all", "all2one", "difficulty"]
    weights = one["by_seed"]["0"]["weights"]
    expected = [[task, *(spelled(weights[rule][task]) for rule in rules)] for task in one["tasks"]]
    assert page.tables["weights"][1:] == [*expected, ["chat (fixed)", *["1.000"] * 5]]


def test_contribution_and_difficulty_are_those_of_the_results(one, page):
    seed = one["by_seed"]["0"]
    for task, cells, row in zip(
        one["tasks"], seed["contribution"], page.tables["contribution"][1:], strict=True
    ):
        assert row == [task, *map(spelled, cells)]
    signals = zip(seed["one2all"], seed["all2one"], seed["difficulty"], strict=True)
    assert [row[1:] for row in page.tables["signals"][1:]] == [
        list(map(spelled, values)) for values in signals
    ]


def test_validation_scores_are_those_of_the_results(one, page):
    scores, tasks = one["by_seed"]["0"]["scores"], one["tasks"]
    runs = [scores["mini"], *(scores["probes"][task] for task in tasks)]
    assert [row[1:] for row in page.tables["validation"][1:]] == [
        [spelled(run[t]) for t in tasks] for run in runs
    ]


def test_test_scores_and_improvement_are_those_of_the_results(one, page):
    seed = one["by_seed"]["0"]
    metric = one["metrics"]["bbox"]
    row = next(row for row in page.tables["test"] if row[0] == f"bbox ({metric})")
    assert row[1:] == [spelled(seed["test"][method]["bbox"][metric]) for method in ("STL", "EW", "CoTBal")]
    against = one["summary"]["against_EW"]["CoTBal"]
    assert page.tables["improvement"][2] == [
        "CoTBal",
        spelled(seed["delta_i"]["CoTBal"], 2),
        f"{against['delta_i']['mean']:+.2f}",
        spelled(seed["delta_e"]["CoTBal"], 2),
        f"{against['delta_e']['mean']:+.2f}",
    ]


def test_several_seeds_carry_their_standard_errors(three, page_of_three):
    delta = three["summary"]["delta_i"]["CoTBal"]
    assert page_of_three.tables["improvement"][2][1] == f"{delta['mean']:.2f} ± {delta['stderr']:.2f}"
    assert "standard error over 3 seeds" in page_of_three.text


def test_every_name_statement_and_version_is_on_the_page(one, page):
    for name in [
        *one["tasks"],
        "chat",
        *one["statements"],
        one["run"]["command"],
        "torch 2.13.0",
        "3 min 4 s",
    ]:
        assert name in page.text


def test_names_and_samples_are_escaped(html, page):
    assert "<b>x</b>" not in html
    assert "<all>" not in html
    assert "sum of <all> digits ?" in page.text
    assert "12 & more" in page.text


def test_an_unidentified_task_is_said_to_have_a_stand_in(page):
    assert "<b>x</b>. What they get from the others is set to the mean" in page.text


def test_statements_are_said_once(one, page, three, page_of_three):
    for results, shown in ((one, page), (three, page_of_three)):
        assert all(shown.text.count(statement) == 1 for statement in results["statements"])


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(html, page):
    assert page.references
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique_and_references_inside_the_figures_resolve(html, page):
    assert len(page.ids) == len(set(page.ids))
    wanted = {reference[1:] for reference in page.references if reference.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(page.ids)


def test_pictures_are_the_samples_pixel_by_pixel(page):
    wanted = [sample["image"] for sample in make_samples() if sample["image"] is not None]
    for uri, image in zip(page.pictures, wanted, strict=True):
        decoded = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(decoded), image)


@pytest.mark.parametrize("smallest", [0.25, 1.25e-5])
def test_the_code_on_the_page_holds_the_weights_and_runs_as_python(one, smallest):
    weights = {**one["by_seed"]["0"]["weights"]["cotbal"], one["tasks"][0]: smallest}
    entry = {**one["by_seed"]["0"], "weights": {**one["by_seed"]["0"]["weights"], "cotbal": weights}}
    text = Page(render_page({**one, "by_seed": {"0": entry}})).text
    start = text.index("import torch, cotbal")
    code = text[start : text.index("shift=True)", start) + len("shift=True)")]
    compile(code, "page", "exec")
    printed = eval(code[code.index("tensor(") + len("tensor(") : code.index("]") + 1])
    assert printed == pytest.approx([weights[task] for task in [*one["tasks"], "chat"]], rel=1e-5)


def test_the_same_results_give_the_same_bytes(one, html, tmp_path):
    path = write_page(one, tmp_path, make_samples())
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == html
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("count", [2, 64])
def test_two_and_sixty_four_tasks_make_a_page(count, monkeypatch):
    # test_figures draws as many; here it would take seconds once more.
    blank = {name: Figure() for name in ("contribution", "difficulty", "radar", "weights")}
    monkeypatch.setattr("cotbal.report.page.draw_figures", lambda results: blank)
    results = make_results(count, unidentified=False)
    page = Page(render_page(results))
    assert [row[0] for row in page.tables["weights"][1:-1]] == results["tasks"]
    assert ("contribution" in page.tables) == (count == 2)
    assert "set to the mean" not in page.text


def test_results_of_another_version_are_refused_and_nothing_is_written(one, tmp_path):
    with pytest.raises(ValueError, match="schema_version"):
        write_page({**one, "schema_version": 0}, tmp_path)
    assert not list(tmp_path.iterdir())
