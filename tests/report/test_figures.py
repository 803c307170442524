import json
import re
import statistics

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from cotbal.report.charts import (
    difficulty_figure,
    improvement_figure,
    name_rows,
    relative_figure,
    weights_figure,
)
from cotbal.report.figures import draw_figures, write_figures
from cotbal.report.heatmap import contribution_figure
from cotbal.report.radar import radar_figure
from cotbal.report.style import panel, paper_style, png_bytes, svg_text
from tests.report.results_example import make_results


@pytest.fixture(scope="module")
def one():
    return make_results()


@pytest.fixture(scope="module")
def written(one, tmp_path_factory):
    return write_figures(one, tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def three():
    return make_results(seeds=(0, 1, 2))


def entry(results, seed=0):
    return results["by_seed"][str(seed)]


def texts(axes):
    return [text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts]


def test_heat_map_holds_c_with_the_trained_task_in_the_row(one):
    axes = contribution_figure(one).axes[0]
    (mesh,) = (artist for artist in axes.collections if isinstance(artist, QuadMesh))
    expected = np.array(entry(one)["contribution"], dtype=float)
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), expected)
    assert axes.get_ylim() == (7, 0)
    assert mesh.norm.vmin == -mesh.norm.vmax == -1.0
    assert "trained" in axes.get_ylabel()
    assert "helped" in axes.get_xlabel()


def test_heat_map_writes_each_number_in_its_cell(one):
    axes = contribution_figure(one).axes[0]
    at = {tuple(text.get_position()): text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts}
    for (i, j), value in np.ndenumerate(np.array(entry(one)["contribution"], dtype=float)):
        if np.isfinite(value):
            assert at[(j + 0.5, i + 0.5)] == (
                "1" if i == j else f"{value + 0.0:.2f}".replace("-0.00", "0.00")
            )


def test_unidentified_cells_are_hatched_and_named(one):
    axes = contribution_figure(one).axes[0]
    hatched = {patch.get_gid() for patch in axes.patches if patch.get_hatch()}
    assert hatched == {f"unidentified-{i}-3" for i in range(7) if i != 3}
    assert any("<b>x</b>" in text for text in texts(axes))


def test_difficulty_bars_are_the_mean_over_seeds(three):
    axes = difficulty_figure(three).axes[0]
    expected = [
        statistics.fmean(entry(three, seed)["difficulty"][place] for seed in range(3)) for place in range(7)
    ]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], expected)
    assert texts(axes) == [f"{value:.2f}" for value in expected]
    assert axes.get_xlim()[0] == 0


def test_a_negative_difficulty_is_drawn_left_of_zero():
    results = make_results(3)
    entry(results)["difficulty"][1] = -0.2
    assert difficulty_figure(results).axes[0].get_xlim()[0] < -0.2


def test_weights_are_drawn_for_every_rule_with_a_line_at_one(one):
    axes = weights_figure(one).axes[0]
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    for label, rule in (("CoTBal", "cotbal"), ("one2all", "one2all"), ("difficulty", "difficulty")):
        assert lines[label] == [entry(one)["weights"][rule][task] for task in one["tasks"]]
    assert lines["equal (1)"] == [1, 1]


def test_radar_is_one_plus_the_improvement_with_a_ring_at_one(one):
    axes = radar_figure(one).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    for method in ("EW", "CoTBal"):
        expected = [1 + entry(one)["improvement"][method][task] for task in one["tasks"]]
        np.testing.assert_allclose(lines[method], [*expected, expected[0]])
        assert min(expected) >= axes.get_ylim()[0]
        assert max(expected) <= axes.get_ylim()[1]
    np.testing.assert_array_equal(lines["STL (ring at 1)"], 1.0)
    assert "1.0" in texts(axes)


def test_improvement_shows_each_seed_and_the_mean(three):
    left, right = improvement_figure(three).axes
    for axes, key in ((left, "delta_i"), (right, "delta_e")):
        seen = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axes.lines])
        assert set(entry(three, 1)[key].values()) <= set(seen)
        assert three["summary"][key]["CoTBal"]["mean"] in seen


def test_a_score_that_could_not_be_compared_is_left_out():
    results = make_results(2)
    entry(results)["improvement"]["EW"] = dict.fromkeys(results["tasks"])
    lines = {line.get_label(): line.get_xdata() for line in relative_figure(results, ["EW"]).axes[0].lines}
    assert np.isnan(lines["EW"]).all()


def test_only_several_seeds_have_seed_noise_to_draw(one, three):
    assert set(draw_figures(three)) - set(draw_figures(one)) == {"improvement"}


@pytest.mark.parametrize("results", [make_results(2, unidentified=False), make_results(64, seeds=(0, 1))])
def test_two_and_sixty_four_tasks_are_drawn(results, tmp_path):
    written = write_figures(results, tmp_path / "new")
    assert {path.suffix for path in written.values()} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in written.values())
    assert sorted(written) == sorted(path.name for path in (tmp_path / "new").iterdir())


def test_files_are_the_same_bytes_whatever_the_readers_settings(one, written, tmp_path):
    with mpl.rc_context({"font.size": 20, "savefig.dpi": 50, "axes.facecolor": "red"}):
        second = write_figures(one, tmp_path)
    assert all(written[name].read_bytes() == second[name].read_bytes() for name in written)


def test_a_font_of_this_machine_has_the_letters_that_the_figures_own_lacks(monkeypatch):
    monkeypatch.setattr("cotbal.report.style._WIDE", ("No Such Font", "DejaVu Serif"))
    with paper_style():
        assert mpl.rcParams["font.family"] == ["DejaVu Sans", "DejaVu Serif"]


def test_letters_that_no_font_has_are_told_once_with_what_to_do(monkeypatch):
    """Matplotlib warns of each in each figure, and finds no font that was installed after its first run."""
    monkeypatch.setattr("cotbal.report.style._WIDE", ("Noto Sans CJK SC",))
    monkeypatch.setattr("cotbal.report.style._told", set())
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", list)
    figure, axes = panel(2, 2)
    name_rows(axes, ["\u89c6\u89c9", "b"])
    words = "letters \u89c6\u89c9, got none: .* install .*CJK.*fontlist-"
    with pytest.warns(UserWarning, match=words) as told:
        _ = png_bytes(figure), svg_text(figure)
    assert len(told) == 1
    name_rows(axes, ["\u89c6", "\u6587"])
    with pytest.warns(UserWarning, match="letters \u6587, got"):
        png_bytes(figure)


def test_no_two_names_overlap_in_the_heat_map_and_the_radar(one):
    for figure in (contribution_figure(one), radar_figure(one), weights_figure(one), difficulty_figure(one)):
        figure.draw_without_rendering()
        axes = figure.axes[0]
        upright = [
            text
            for text in [*axes.texts, *axes.get_yticklabels(), *axes.xaxis.get_ticklabels()]
            if text.get_text() and text.get_rotation() == 0
        ]
        boxes = [text.get_window_extent().padded(-1) for text in upright]
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_svg_carries_no_address_but_the_namespaces(written):
    text = written["radar.svg"].read_text()
    assert not re.search(r'(src|href)="http', text)
    assert "<metadata" not in text


def test_names_that_begin_and_end_alike_stay_apart_in_every_figure():
    results = make_results(20, unidentified=False)
    text = json.dumps(results)
    for task in sorted(results["tasks"], key=len, reverse=True):
        text = text.replace(json.dumps(task), json.dumps(f"the_cauldron_{task}_train_of_version_1"))
    figures = draw_figures(json.loads(text))
    for name, figure in figures.items():
        axes = figure.axes[0]
        shown = [label.get_text() for label in axes.get_yticklabels()]
        shown = [text for text in texts(axes) if "…" in text] if name == "radar" else shown
        assert len(set(shown)) == 20, name
